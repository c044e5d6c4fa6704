"""From diffusers' weights through training on the built-in world back to diffusers: in full, and by adapters."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit.adapters import adapters, bare_key, is_adapter_key
from dit.engine import frozen, initial, run
from dit.interop import call_like_diffusers, from_diffusers
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.pipeline import Pipeline
from tests.engine import small
from tests.interop.equality import example
from tests.interop.reference import relative
from tests.interop.tuning import LORA, convert, run_config, train

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytestmark = pytest.mark.timeout(900)  # seconds on a free core; a busy machine takes many times that


def ours(checkpoint: str, weights: str = "ema") -> nn.Module:
    """The network of a run."""
    file = Checkpoint.load(Path("runs") / checkpoint)
    net = file.network().eval()
    file.fill({"net": net}, file.choose(weights)[1])
    return net


def theirs(folder: Path) -> nn.Module:
    return diffusers.WanTransformer3DModel.from_pretrained(folder)


@torch.no_grad()
def outputs(net: nn.Module, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Ours and theirs on the same arguments."""
    arguments = example(model, (2, 4, 6), 7)
    x, t, text = (arguments[key] for key in ("hidden_states", "timestep", "encoder_hidden_states"))
    return net(x, t[:, None] / 1000, {"text": text}), model(**arguments, return_dict=False)[0]


def net_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    weights = checkpoint["state_dict"].items()
    return {key.removeprefix("net."): tensor for key, tensor in weights if key.startswith("net.")}


def assert_resumes(name: str, source: Path, *overrides: str) -> None:
    """3 steps and 3 more are 6 at once, bit for bit, and the source is not needed again."""
    straight = train("straight", 6, f"init_from={source}", *overrides)
    moved = source.rename(source.with_name("gone"))
    try:
        resumed = train(name, 6, f"init_from={source}", *overrides)
    finally:
        moved.rename(source)
    assert resumed["global_step"] == 6
    assert [at for key in small.EXACT for at in small.same(straight[key], resumed[key], key)] == []


def test_all_weights(wan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    first = from_diffusers(wan).state_dict()
    saved = train("full", 3, f"init_from={wan}")
    moved = {key: (net_weights(saved)[key] - first[key]).abs().max() for key in first}
    assert all(0 < change <= 0.031 for change in moved.values()), moved  # three steps of AdamW from there
    assert Path("runs/full/init_from.txt").read_text() == f"{len(first)} tensors of WanTransformer3DModel in {wan}\n"
    assert_resumes("full", wan)

    convert(monkeypatch, "runs/full", "averaged")
    convert(monkeypatch, "runs/full", "raw", "--weights", "raw")
    size = sum(p.numel() for p in theirs(wan).parameters())
    printed = capsys.readouterr().out
    assert (
        f"wrote averaged: WanTransformer3DModel from runs/full/checkpoints/last.ckpt (ema:narrow), {size:,} par"
        in printed
    )
    for name, weights in (("averaged", "ema"), ("raw", "raw")):
        mine, other = outputs(ours("full", weights), theirs(folder / name))
        assert relative(mine, other) < 1e-5
        assert relative(mine, outputs(ours("full"), theirs(wan))[1]) > 1e-3  # not what it was before training
    assert relative(*outputs(ours("full", "raw"), theirs(folder / "averaged"))) > 1e-5
    with pytest.raises(FileExistsError, match="averaged is there already"):
        convert(monkeypatch, "runs/full", "averaged")

    # A run that holds an export of itself is still a run.
    convert(monkeypatch, "runs/full", "runs/full/exported")
    convert(monkeypatch, "runs/full", "beside")
    assert "wrote beside: WanTransformer3DModel from runs/full/checkpoints/last.ckpt (ema" in capsys.readouterr().out
    assert initial.open_source("runs/full", "raw").about == "runs/full/checkpoints/last.ckpt (raw)"

    # And through a folder of ours: the same bits.
    convert(monkeypatch, "averaged", "mine")
    convert(monkeypatch, "mine", "again")
    a, b = theirs(folder / "averaged").state_dict(), theirs(folder / "again").state_dict()
    assert small.same(dict(a), dict(b)) == []
    started = train("from_mine", 1, "init_from=mine", "optim.lr=0")
    assert small.same(net_weights(started), dict(from_diffusers(folder / "averaged").state_dict())) == []


def test_adapters(wan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    first = from_diffusers(wan).state_dict()
    saved = train("lora", 3, f"init_from={wan}", *LORA)
    weights = net_weights(saved)
    adapted = [key for key in saved["state_dict"] if is_adapter_key(key)]
    assert len(adapted) == 2 * 2 * 5  # two blocks, five projections
    assert set(saved["state_dict"]) == set(adapted)  # and nothing else: what stands still is there once for the run
    assert all(tensor.abs().max() > 0 for tensor in weights.values())
    beside = net_weights(torch.load("runs/lora/checkpoints/frozen.pt", weights_only=True))
    assert small.same({bare_key(key): tensor for key, tensor in beside.items()}, dict(first)) == []  # did not move
    assert all(set(average) == set(adapted) for average in saved["ema"].values())
    assert {len(group["params"]) for group in saved["optimizer_states"][0]["param_groups"]} == {len(adapted)}
    assert_resumes("lora", wan, *LORA)

    convert(monkeypatch, "runs/lora", "adapters", "--to", "lora")
    assert "wrote adapters: 16 adapters from runs/lora/checkpoints/last.ckpt (ema:narrow)" in capsys.readouterr().out
    convert(monkeypatch, "runs/lora", "merged")
    model = theirs(wan)
    before = outputs(ours("lora"), model)[1]
    model.load_lora_adapter(str(folder / "adapters"), use_safetensors=True)
    mine, other = outputs(ours("lora"), model)
    assert relative(mine, other) < 1e-5
    assert relative(mine, before) > 1e-3  # the adapters do something
    assert relative(*outputs(ours("lora"), theirs(folder / "merged"))) < 1e-5

    # sample.py's way to the network.
    pipeline = Pipeline.from_checkpoint("runs/lora", device="cpu", num_steps=2)
    assert small.same(dict(pipeline.net.state_dict()), dict(ours("lora").state_dict())) == []
    assert pipeline(["a red circle moves to the right"], [3]).pixels.isfinite().all()

    # Another run goes on with the adapters, or refuses to lose them.
    again = train("again", 1, "init_from=runs/lora", "init_weights=ema", "optim.lr=0", *LORA)
    assert small.same(net_weights(again), {key: ours("lora").state_dict()[key] for key in net_weights(again)}) == []
    assert small.same(dict(ours("again", "raw").state_dict()), dict(ours("lora").state_dict())) == []
    with pytest.raises(
        ValueError, match=r"lora_A.default.weight is not in this network .*merge its adapters first: py"
    ):
        train("full", 1, "init_from=runs/lora")
    assert not Path("runs/full").exists()


def test_training_goes_on_from_exported_adapters(wan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run of adapters exports is what another one begins with, whatever its alpha."""
    train("lora", 3, *LORA, f"init_from={wan}")
    convert(monkeypatch, "runs/lora", "adapters", "--to", "lora", "--weights", "raw")
    module = run.build(run_config("again", *LORA, f"init_from={wan}", "lora.alpha=7")).module
    initial.load(module, str(wan), "raw", strict=True)
    initial.load_adapters(module, "adapters")
    first = {name: each.delta() for name, each in adapters(ours("lora", "raw")).items()}
    for name, each in adapters(module.net).items():
        torch.testing.assert_close(each.delta(), first[name], rtol=1e-5, atol=1e-7)
    assert max(float(delta.abs().max()) for delta in first.values()) > 0
    for overrides, said in (
        (["lora.rank=2"], "has rank 3, here 2; give lora.rank"),
        (["lora.targets=[attention.qkv]"], "must name the same layers"),
        (["lora=none"], "lora_from=adapters wants a run of adapters: add lora=default"),
    ):
        chosen = [
            each for each in LORA if each.split("=")[0] != overrides[0].split("=")[0] and overrides != ["lora=none"]
        ]
        with pytest.raises(ValueError, match=said):
            run.train(run_config("wrong", *chosen, *overrides, f"init_from={wan}", "lora_from=adapters"))
    assert not Path("runs/wrong/config.yaml").exists()


def test_adapters_without_what_they_stand_beside(wan: Path, folder: Path) -> None:
    """One line, at sampling and at going on, and the run is as it was."""
    train("lora", 1, f"init_from={wan}", *LORA)
    train("other", 1, *LORA)
    beside, other = (Path(f"runs/{name}/checkpoints/frozen.pt") for name in ("lora", "other"))
    kept = beside.read_bytes()

    def assert_refused(said: str) -> None:
        for call in (
            lambda: train("lora", 2, f"init_from={wan}", *LORA),
            lambda: Checkpoint.load(Path("runs/lora")),
            lambda: train("from_lora", 1, "init_from=runs/lora", *LORA),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
                call()
            assert "\n" not in str(caught.value) and small.load(Path("runs/lora"))["global_step"] == 1
        assert not Path("runs/from_lora").exists()

    beside.unlink()
    assert_refused("last.ckpt holds adapters alone, and runs/lora/checkpoints/frozen.pt is not there")
    beside.write_bytes(other.read_bytes())
    assert_refused("frozen.pt is of another run than last.ckpt beside it")
    beside.write_bytes(kept[: len(kept) // 2])
    assert_refused("frozen.pt cannot be read as a checkpoint .*copy it again; all checkpoints of the run share it")
    beside.write_bytes(kept)
    assert train("lora", 2, f"init_from={wan}", *LORA)["global_step"] == 2


def test_a_checkpoint_that_holds_everything_goes_on(wan: Path, folder: Path) -> None:
    """As those of adapters once did: the next ones hold adapters alone, and what these stand beside lies there."""
    straight = train("straight", 2, f"init_from={wan}", *LORA)
    train("older", 1, f"init_from={wan}", *LORA)
    last, beside = (Path("runs/older/checkpoints") / name for name in ("last.ckpt", "frozen.pt"))
    older = small.load(Path("runs/older"))
    older["state_dict"] |= torch.load(beside, weights_only=True)["state_dict"]
    del older["frozen"]
    beside.unlink()
    last.unlink()
    torch.save(older, last)
    assert (
        Pipeline.from_checkpoint("runs/older", device="cpu", num_steps=1)(["a red circle"], [3]).pixels.isfinite().all()
    )
    resumed = train("older", 2, f"init_from={wan}", *LORA)
    assert [at for key in (*small.EXACT, "frozen") for at in small.same(straight[key], resumed[key], key)] == []
    assert small.same(Checkpoint.load("runs/straight").weights, Checkpoint.load("runs/older").weights) == []


def test_what_adapters_stand_beside_is_written_whole_or_not_at_all(
    wan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, nothing half there, and the same command works once there is room."""

    def full(saved: Any, file: Any) -> None:
        file.write(b"half of it")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 829888 vs 829776")  # as torch's writer does

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(ValueError, match=r"frozen.pt cannot be written: No space left on device\. .* again$"):
            train("lora", 1, f"init_from={wan}", *LORA)
    assert list(Path("runs/lora/checkpoints").iterdir()) == []
    Path("runs/lora/checkpoints/frozen.pt").mkdir()
    with pytest.raises(ValueError, match="cannot be written: Is a directory"):
        train("lora", 1, f"init_from={wan}", *LORA)
    Path("runs/lora/checkpoints/frozen.pt").rmdir()
    assert train("lora", 1, f"init_from={wan}", *LORA)["global_step"] == 1


def test_the_fingerprint_of_weights() -> None:
    weights = {"a": torch.randn(3, 4), "b": torch.randn(2).bfloat16(), "c": torch.tensor(1.0)}
    mark = frozen.fingerprint(weights)
    assert mark == frozen.fingerprint({key: weights[key].clone() for key in ("c", "b", "a")})
    others = [{**weights, "a": weights["a"].nextafter(torch.tensor(torch.inf))}, {**weights, "c": torch.tensor(2.0)}]
    others += [{"a": weights["a"], "d": weights["b"], "c": weights["c"]}, {key: weights[key] for key in "ab"}]
    assert mark not in {frozen.fingerprint(other) for other in others}


def test_muon_trains_adapters(wan: Path, folder: Path) -> None:
    saved = train("lora", 1, f"init_from={wan}", "optim=muon", "lora=default", "lora.targets=[mlp.up,level.out]")
    sizes = [len(group["params"]) for group in saved["optimizer_states"][0]["param_groups"]]
    assert sizes == [4, 2]  # in blocks by Muon, outside by AdamW; no group without decay, as adapters are matrices


def test_ablations_take_what_fits(wan: Path, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        train("sincos", 1, f"init_from={wan}", "net/position=sincos")  # no parameters of its own: every weight fits
    assert "something else than the one of these weights: position.class is SinCos3D, not RoPE3D" in caplog.text
    other = ("net/modulation=adaln_zero", "net.text_width=24", "text.width=24")
    with pytest.raises(ValueError) as caught:
        train("zero", 1, f"init_from={wan}", *other)
    said = str(caught.value)
    assert f"init_from={wan} does not fit: net.text.embed.hidden.weight is (32, 16) there, (32, 24) here" in said
    assert "more do not fit); init_strict=false takes what fits" in said and "\n" not in said
    assert not Path("runs/zero").exists()
    caplog.clear()
    with caplog.at_level("INFO"):
        saved = train("zero", 1, f"init_from={wan}", *other, "init_strict=false", "optim.lr=0")
    assert "skipped 1, another shape: net.text.embed.hidden.weight is (32, 16) there, (32, 24) here" in caplog.text
    assert (
        "not here: net.modulation.shared.weight, net.modulation.shared.bias, net.blocks.*.modulation.table (2)"
        in caplog.text
    )
    assert "text begins with weights of its own" in caplog.text
    listed = Path("runs/zero/init_from.txt").read_text().splitlines()
    assert "not here: net.blocks.1.modulation.table" in listed
    first, weights = from_diffusers(wan).state_dict(), net_weights(saved)
    skipped = {line.split("net.", 1)[1].split(" ")[0] for line in listed[1:]}
    taken = first.keys() - skipped
    assert len(taken) > 30 and all(torch.equal(weights[key], first[key]) for key in taken)
    with pytest.raises(ValueError, match="nothing of WanTransformer3DModel in .* fits this network"):
        train("none", 1, f"init_from={wan}", "init_strict=false", "net.width=48", "net.heads=3", "net.depth=1",
              "net.in_channels=3", "net.out_channels=3", "net.patch=[1,4,4]", "net.level.frequencies=64")  # fmt: skip


def test_our_network_is_called_as_theirs(wan: Path) -> None:
    """What `outputs` does by hand is what `call_like_diffusers` does."""
    net, model = from_diffusers(wan), theirs(wan)
    arguments = example(model, (2, 4, 6), 7)
    assert torch.equal(outputs(net, model)[0], call_like_diffusers(net, **arguments))
