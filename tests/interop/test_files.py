"""Folders that are not what they should be: one line that names file and key, nothing half-loaded, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dit import entry
from dit.folders import INDEX_SUFFIX, WEIGHTS
from dit.interop import call_like_diffusers, from_diffusers, to_diffusers
from tests import commands
from tests.interop.equality import example
from tests.interop.reference import randomise, relative
from tests.interop.tuning import WAN

diffusers = pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[2]
INDEX = WEIGHTS + INDEX_SUFFIX
KEY, VALUE = (f"blocks.1.attn1.to_{x}.weight" for x in "kv")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole` and `shards`: one random Wan as diffusers saves it."""
    folder = tmp_path_factory.mktemp("saved")
    model = randomise(diffusers.WanTransformer3DModel(**WAN))
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "shards", max_shard_size="50KB")
    return folder


def settings(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][KEY]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def variant(folder: Path) -> None:
    """As diffusers saves with variant="fp16", beside the pickle of older days."""
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.fp16.safetensors")


def elsewhere(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][KEY] = "../whole/" + WEIGHTS
    (folder / INDEX).write_text(json.dumps(index))


def misplaced(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    placed = index["weight_map"]
    placed[KEY] = next(file for file in placed.values() if file != placed[KEY])
    (folder / INDEX).write_text(json.dumps(index))


# What is done to a folder, and what is then said of which file.
SINGLE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "class": (lambda f: settings(f, _class_name="UNet2DModel"), "config.json", "=UNet2DModel is not a class"),
    "no class": (lambda f: (f / "config.json").write_text("{}"), "config.json", "_class_name=None is not a class"),
    "setting": (lambda f: settings(f, window=3), "config.json", "a setting that is not known here: window=3"),
    "value": (lambda f: settings(f, patch_size=2), "config.json", "must be a "),
    "heads": (lambda f: settings(f, num_attention_heads="two"), "config.json", "must be a "),
    "no heads": (lambda f: settings(f, num_attention_heads=0), "config.json", "must be a "),
    "sizes": (lambda f: settings(f, added_kv_proj_dim=7), "config.json", "added_kv_proj_dim=7 must be the width"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json", "is not there: a folder saved by diffusers"),
    "no JSON": (lambda f: (f / "config.json").write_text('{"_class_name": '), "config.json", "is not JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json", "holds no mapping"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), WEIGHTS, "is not there, nor is"),
    "quantised": (
        lambda f: settings(f, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "config.json",
        "quantization_config: quantised weights are not supported; take those that they were made from",
    ),
    "ten million blocks": (
        lambda f: settings(f, num_layers=10_000_000),
        "config.json",
        "num_layers=10000000, but the folder holds",
    ),
    "a billion heads": (
        lambda f: settings(f, num_attention_heads=1_000_000_000),
        "config.json",
        "a setting has an impossible value",
    ),
    "a million heads": (  # whose channels in another order, one by one, would take minutes and tens of GB
        lambda f: settings(f, num_attention_heads=1_000_000),
        "config.json",
        " weights, but the folder holds ",
    ),
    "variant": (
        variant,
        WEIGHTS,
        f"diffusion_pytorch_model.fp16.safetensors is: rename it to {WEIGHTS} if it is what you want",
    ),
    "pickle": (pickled, "diffusion_pytorch_model.bin", "is a pickle, which may run code"),
    "truncated": (lambda f: truncate(f / WEIGHTS), WEIGHTS, "is no whole safetensors file"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), WEIGHTS, "is no whole safetensors file"),
    "text": (lambda f: (f / WEIGHTS).write_text("version https://git-lfs"), WEIGHTS, "is no whole safetensors file"),
    "missing key": (lambda f: weights(f, lambda w: w.pop(KEY)), WEIGHTS, f"{KEY} is missing"),
    "left-over key": (
        lambda f: weights(f, lambda w: w.update({"vae.weight": torch.ones(3)})),
        WEIGHTS,
        "vae.weight has no place in this network",
    ),
    "shape": (
        lambda f: weights(f, lambda w: w.update({KEY: torch.ones(32, 40)})),
        WEIGHTS,
        f"{KEY} has the shape (32, 40), needed (32, 32)",
    ),
    "whole numbers": (
        lambda f: weights(f, lambda w: w.update({KEY: w[KEY].to(torch.int8)})),
        WEIGHTS,
        f"{KEY} holds whole numbers or 8-bit floats: quantised weights are not supported",
    ),
    "8-bit floats": (
        lambda f: weights(f, lambda w: w.update({KEY: w[KEY].to(torch.float8_e4m3fn)})),
        WEIGHTS,
        f"{KEY} holds whole numbers or 8-bit floats: quantised weights are not supported",
    ),
    "as many values in another shape": (
        lambda f: weights(f, lambda w: w.update({"proj_out.weight": w["proj_out.weight"].T.contiguous()})),
        WEIGHTS,
        "proj_out.weight has the shape (32, 12), needed (12, 32)",
    ),
    "k and v of other sizes, but right together": (
        lambda f: weights(f, lambda w: w.update({KEY: torch.ones(40, 32), VALUE: torch.ones(24, 32)})),
        WEIGHTS,
        f"{KEY} has the shape (40, 32), needed (32, 32)",
    ),
}  # fmt: skip
SHARDED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "variant": (
        lambda f: (f / INDEX).rename(f / f"{WEIGHTS}.index.fp16.json"),
        WEIGHTS,
        f"{WEIGHTS}.index.fp16.json is: rename it to {INDEX} if its shards are what you want",
    ),
    "shards alone": (lambda f: (f / INDEX).unlink(), WEIGHTS, "but not the index that says which shard holds what"),
    "missing shard": (lambda f: shard(f).unlink(), "shard", f"is missing; {INDEX} lists it"),
    "truncated shard": (lambda f: truncate(shard(f)), "shard", "is no whole safetensors file"),
    "misplaced key": (misplaced, "", f"does not hold {KEY}, which {INDEX} places there"),
    "outside": (elsewhere, INDEX, "names ../whole/"),
    "no index": (lambda f: (f / INDEX).write_text("{"), INDEX, "is not JSON"),
    "empty index": (lambda f: (f / INDEX).write_text('{"weight_map": {"a": 3}}'), INDEX, "has no weight_map"),
}


CASES = {**SINGLE, **{f"sharded, {name}": case for name, case in SHARDED.items()}}


@pytest.mark.parametrize("case", CASES)
def test_one_line_that_names_the_file(case: str, saved: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    damage, file, said = CASES[case]
    shutil.copytree(saved / ("whole" if CASES[case] in SINGLE.values() else "shards"), source)
    if file == "shard":
        file = shard(source).name
    damage(source)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(Exception) as caught:  # noqa: B017 - which kind is for `explain` to say
        from_diffusers(source)
    line = entry.explain(caught.value)
    assert line is not None and "\n" not in line, caught.value
    assert line.startswith(str(source / file)) and said in line, line
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_is_not_of_the_network_is_no_setting(saved: Path, tmp_path: Path) -> None:
    """What published configs hold beside: their origin, how the weights are stored, and no quantisation."""
    shutil.copytree(saved / "whole", tmp_path / "model")
    settings(tmp_path / "model", _name_or_path="hub/model", torch_dtype="bfloat16", dtype="bfloat16", _any=[1])
    settings(tmp_path / "model", quantization_config=None)
    ours, wanted = (from_diffusers(folder).state_dict() for folder in (tmp_path / "model", saved / "whole"))
    assert all(torch.equal(ours[key], value) and ours[key].dtype is value.dtype for key, value in wanted.items())


def test_a_folder_of_bfloat16(saved: Path, tmp_path: Path) -> None:
    """Stays bfloat16, and so does what is written. diffusers keeps some modules in float32 when it loads one."""
    kind = diffusers.WanTransformer3DModel
    kind.from_pretrained(saved / "whole").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    net = from_diffusers(tmp_path / "half")
    to_diffusers(net, tmp_path / "written")
    ours, wanted = (load_file(tmp_path / name / WEIGHTS) for name in ("written", "half"))
    assert {value.dtype for value in ours.values()} == {torch.bfloat16}
    assert all(torch.equal(ours[key], value) for key, value in wanted.items())

    model = kind.from_pretrained(tmp_path / "half", torch_dtype=torch.bfloat16)
    mixed = from_diffusers(model)
    assert {value.dtype for value in mixed.state_dict().values()} == {torch.bfloat16, torch.float32}
    given = example(model, (2, 4, 4), text_tokens=5)
    given = {key: value.to(torch.bfloat16) if value.is_floating_point() else value for key, value in given.items()}
    with torch.no_grad():
        right = call_like_diffusers(net, **given)
        assert torch.equal(call_like_diffusers(mixed.to(torch.bfloat16), **given), right)
        assert right.dtype is torch.bfloat16 and relative(right, model(**given, return_dict=False)[0]) < 0.05


def test_a_pipeline_names_its_networks(saved: Path, tmp_path: Path) -> None:
    """Wan 2.2 has two, of which each is one of ours."""
    for name in ("transformer", "transformer_2"):
        shutil.copytree(saved / "whole", tmp_path / "wan" / name)
    (tmp_path / "wan/model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(FileNotFoundError, match="is a whole pipeline: give its network, ") as caught:
        from_diffusers(tmp_path / "wan")
    assert str(caught.value).endswith(f"{tmp_path / 'wan/transformer'} or {tmp_path / 'wan/transformer_2'}")
    assert from_diffusers(tmp_path / "wan/transformer_2").depth == WAN["num_layers"]


def test_a_pipeline_is_not_its_transformer(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "whole", tmp_path / "pipeline/transformer")
    (tmp_path / "pipeline/text_encoder").mkdir()
    (tmp_path / "pipeline/text_encoder/config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*pipeline/transformer\?"):
        from_diffusers(tmp_path / "pipeline")


def test_a_class_that_is_not_known() -> None:
    with pytest.raises(ValueError, match="_class_name=UNet2DModel is not a class that this project knows"):
        from_diffusers(diffusers.UNet2DModel(8, 3, 3, block_out_channels=(32,), down_block_types=("DownBlock2D",),
                                             up_block_types=("UpBlock2D",), norm_num_groups=8))  # fmt: skip


def test_nothing_is_overwritten_or_left_behind(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = from_diffusers(saved / "shards")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not lose")
    with pytest.raises(FileExistsError, match="mine is there already"):
        to_diffusers(net, tmp_path / "mine")
    monkeypatch.setattr("dit.interop.files.write_weights", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ValueError, match="new cannot be written: disk full$"):
        to_diffusers(net, tmp_path / "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_into_an_empty_folder_behind_a_link(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "mine").symlink_to(tmp_path / "disk")
    to_diffusers(from_diffusers(saved / "whole"), tmp_path / "mine")
    assert (tmp_path / "mine").is_symlink() and (tmp_path / "disk" / WEIGHTS).is_file()


def test_what_was_changed_since_is_not_written(saved: Path, tmp_path: Path) -> None:
    """The class that a network came from is no proof of what it is now."""
    net = from_diffusers(saved / "whole")
    to_diffusers(torch.compile(net), tmp_path / "compiled")  # type: ignore[arg-type]  # computes the same
    net.blocks[1].norm1.eps = 0.5  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"blocks\.1\.norm1\.eps is 0\.5"):
        to_diffusers(net, tmp_path / "out")
    with pytest.raises(ValueError, match="on the meta device"):
        to_diffusers(from_diffusers(saved / "whole").to("meta"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_the_shell(saved: Path, tmp_path: Path) -> None:
    """Exit code 2 and one line, through both commands; no run and no folder is left behind."""
    shutil.copytree(saved / "whole", tmp_path / "cut")
    truncate(tmp_path / "cut" / WEIGHTS)
    shutil.copytree(saved / "whole", tmp_path / "flux")
    settings(tmp_path / "flux", _class_name="FluxTransformer2DModel")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    converter, trainer = "scripts/convert_weights.py", "train.py"
    for command, said in (
        ((converter, "cut", "out"), f"cut/{WEIGHTS} is no whole safetensors file"),
        ((converter, "nowhere", "out"), "nowhere"),
        ((trainer, "net=wan21_tiny", "logger=none", "init_from=flux", "net.in_channels=3", "net.out_channels=3",
          "net.patch=[1,8,8]", "data.height=64", "data.width=64"), "flux/config.json: _class_name=Flux"),
    ):  # fmt: skip
        done = commands.run(*command, cwd=tmp_path)
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2 and len(lines) == 1, done.stderr
        assert lines[0].startswith("error: ") and said in lines[0]
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    done = commands.run(converter, str(saved / "whole"), "out", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("wrote out: a network of ours from "), done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["net.safetensors", "net.yaml"]
