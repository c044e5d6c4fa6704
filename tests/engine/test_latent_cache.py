"""Training from latents that were made beforehand is training from clips; making them survives any kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from dit.engine import run
from dit.interop.presets import CONFIGS
from dit.text import pretrained
from scripts import cache_latents
from tests.codec.autoencoders import saved
from tests.codec.test_vae import leave, network
from tests.data.videos import write_numbered
from tests.engine import small
from tests.text import tiny

pytest.importorskip("transformers")
SMALL = (
    "experiment=real_clips", "net.depth=1", "net.width=24", "net.heads=2", "net.patch=[1,1,1]", "text.width=16",
    "net.text_width=16", "text.depth=0", "text.ngrams=[]", "data.num_frames=5", "data.height=8", "data.width=8",
    "data.fps=5", "data.batch_size=2", "data.num_workers=0", "data.max_bad_share=0.5", "data.labels=folder",
    "net/label=classes", "net.vectors.label.num_classes=2", "caption_dropout=0.4", "preview=none",
    "trainer.max_steps=4", "trainer.accelerator=cpu", "lr_schedule=constant", "callbacks.validation.every=2",
    "callbacks.checkpoints.every=2", "callbacks.metrics.every=1", "callbacks.progress.seconds=1000",
)  # fmt: skip
LATENTS = ("net.in_channels=4", "net.out_channels=4")
T5 = ("text=t5", "text.parts.tokens.length=24", "net/text=cross", "net/pooled=none", "~text.width", "~text.depth")


def config(*overrides: str) -> dict[str, Any]:
    """As the command line has it; `~key` takes away one of the overrides before it."""
    without = [each[1:] for each in overrides if each.startswith("~")]
    kept = [each for each in (*SMALL, *overrides) if each.split("=")[0].lstrip("~") not in without]
    if "text=t5" in kept:
        kept.remove("text.ngrams=[]")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plain: Any = OmegaConf.to_container(hydra.compose("train", kept), resolve=True)
    return plain


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder and a text encoder in miniature."""
    folder = tmp_path_factory.mktemp("parts")
    saved("wan 2.1", folder / "vae")
    tiny.save(folder, tokenizer=tiny.unigram(), text_encoder=tiny.t5())
    leave(folder / "ours", network(dtype=torch.float32))
    return folder


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six clips in two classes: one cannot be read, one is an image, one has several captions and a licence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "reference_rate", lambda *_: (1e12, "not measured"))  # seconds for each run
    for name in ("x", "y"):
        (tmp_path / "clips" / name).mkdir(parents=True)
    for name in ("x/a", "x/b", "y/c", "y/d"):
        write_numbered(tmp_path / f"clips/{name}.mp4", count=30)
        (tmp_path / f"clips/{name}.txt").write_text(f"a cat {name}")
    (tmp_path / "clips/x/a.txt").unlink()
    (tmp_path / "clips/x/a.json").write_text(json.dumps({"caption": ["one", "two", "three"], "licence": "CC0-1.0"}))
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "clips/y/e.png")
    (tmp_path / "clips/y/f.mp4").write_bytes(b"this is no video")
    return tmp_path / "clips"


def make(out: str, wanted: dict[str, Any], **changes: Any) -> Path:
    cache_latents.make(cache_latents.Asked(out=out, **changes), wanted)
    return Path(out)


def told(parts: Path, name: str) -> tuple[str, ...]:
    """Overrides for a codec, and a text encoder."""
    if name == "wan, drawn, with t5":
        return (*LATENTS, *T5, "codec=pretrained", f"codec.folder={parts / 'vae'}", "codec.batch=1",
                "codec.posterior=sample", f"text.folder={parts}")  # fmt: skip
    if name == "ours, drawn":
        return ("net.in_channels=3", "net.out_channels=3", "codec=vae", f"codec.ckpt={parts / 'ours'}", "codec.batch=1",
                "codec.posterior=sample")  # fmt: skip
    return ("codec.scale=2",)


def different(before: str, after: str) -> list[str]:
    """Where two runs differ: weights, averages, moments, random states, place in the data, and metrics."""
    first, second = small.load(Path("runs") / before), small.load(Path("runs") / after)
    found = [where for key in small.EXACT for where in small.same(first[key], second[key], key)]
    return found + small.same(small.table(Path("runs") / before), small.table(Path("runs") / after), "metrics")


@pytest.mark.parametrize("name", ["pixels", "wan, drawn, with t5", "ours, drawn"])
def test_training_from_a_cache_is_training_from_clips(
    name: str, parts: Path, clips: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit: losses, weights, validation and draws of the posterior, with captions, classes, dropout, an image
    and a clip that cannot be read. Neither clips nor text encoder are there any more."""
    root = f"data.root={clips}"
    run.train(config(*told(parts, name), root, "name=clips"))
    assert "skipped y/f.mp4" in caplog.text, "the stand-in is tried"
    make("cache", config(*told(parts, name), root), views=2)  # as many epochs as the four steps have
    clips.rename(clips.with_name("gone"))
    monkeypatch.setattr(pretrained, "load_encoder", None)
    cached = config(*told(parts, name), "data.cache=cache", "name=cached")
    run.train(cached)
    assert different("clips", "cached") == []
    card = [(Path("runs") / each / "data_card.json").read_bytes() for each in ("clips", "cached")]
    assert card[0] == card[1] and b"CC0-1.0" in card[0]

    # Half of a run from clips, half from the cache; and a run of other text that has the encoder left to say it.
    shutil.copytree("runs/clips", "runs/both")
    run.train(config(*told(parts, name), "data.cache=cache", "name=both", "resume_from=2"))
    assert different("clips", "both") == []


def test_a_cache_serves_other_lists_of_the_same_clips(parts: Path, clips: Path) -> None:
    """A filter, other captions, several rows of one file; in any order."""
    rows = [f"{name},{part}" for name in ("x/a.mp4", "y/c.mp4", "y/d.mp4") for part in ("0,1", "1,2", "0,1")]
    Path("list.csv").write_text(
        "path,start,end,caption,motion\n" + "".join(f"{r},told,{i}\n" for i, r in enumerate(rows))
    )
    told = (f"data.root={clips}", "data.manifest=list.csv", "data.val_clips=0", "data.columns=[motion]")
    make("cache", config(*told), views=1)
    data = run.build(config("data.cache=cache", "data.val_clips=0", "data.columns=[motion]")).data
    whole = [data.training_clip(index) for index in range(9)]  # type: ignore[attr-defined]
    assert [item["columns"]["motion"] for item in whole] == list(range(9))
    Path("list.csv").write_text(
        "path,start,end,caption,motion\n" + "".join(f"{r},anew,{i}\n" for i, r in enumerate(rows[::-1]))
    )
    other = run.build(config(*told, "data.filter='motion < 4'", "data.cache=cache")).data
    for index in range(4):
        item = other.training_clip(index)  # type: ignore[attr-defined]
        twins = [each for each in whole if each["id"] == item["id"]]
        assert item["caption"] == "anew" and any(
            torch.equal(item["encoded"]["clip"], each["encoded"]["clip"]) for each in twins
        )
    ids = [other.training_clip(index)["id"] for index in range(4)]  # type: ignore[attr-defined]
    assert ids == ["y/d.mp4#0-1", "y/d.mp4#1-2", "y/d.mp4#0-1", "y/c.mp4#0-1"]


def test_generated_clips_and_half_the_room(parts: Path, clips: Path) -> None:
    world = ("experiment=demo", "data.train.num_clips=6", "data.val.num_clips=2", "data.val_batch_size=2", "~data.root",
             "data.train.labels=[]", "data.val.labels=[]", "~data.labels", "~net/label",
             "~net.vectors.label.num_classes", "~data.max_bad_share")  # fmt: skip
    run.train(config(*world, "name=clips"))
    make("cache", config(*world))
    run.train(config(*world, "data.cache=cache", "name=cached"))
    assert different("clips", "cached") == []
    half = make("half", config(*world), dtype="bfloat16")
    run.train(config(*world, f"data.cache={half}", "name=half"))
    assert different("clips", "half") != []
    size = [sum(file.stat().st_size for file in Path(each).glob("*/*.safetensors")) for each in ("cache", "half")]
    assert size[1] < 0.6 * size[0]
    with pytest.raises(ValueError, match="data.train.seed was 0 when it was made, and is 1 in this run"):
        run.build(config(*world, "data.train.seed=1", "data.cache=cache"))
    with pytest.raises(ValueError, match="views=2: these clips look the same in each epoch; views=1"):
        make("other", config(*world), views=2)
