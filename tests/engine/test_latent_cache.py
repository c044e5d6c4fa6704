"""Training from latents that were made beforehand is training from clips."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from data.latents.reading import read_about
from dit.engine import run
from dit.signals.base import Around, Entry, Number
from dit.text import pretrained
from tests.engine.latent_caches import config, different, make, told


@pytest.mark.parametrize("name", ["pixels", "wan, drawn, with t5", "ours, drawn"])
def test_training_from_a_cache_is_training_from_clips(
    name: str, model_parts: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit: losses, weights, validation and draws of the posterior, with captions, classes, dropout, an image
    and a clip that cannot be read. Neither clips nor text encoder are there any more."""
    root = f"data.root={clip_folder}"
    run.train(config(*told(model_parts, name), root, "name=clips"))
    assert "skipped y/f.mp4" in caplog.text, "the stand-in is tried"
    make("cache", config(*told(model_parts, name), root), views=2)  # as many epochs as the four steps have
    clip_folder.rename(clip_folder.with_name("gone"))
    monkeypatch.setattr(pretrained, "load_encoder", None)
    cached = config(*told(model_parts, name), "data.cache=cache", "name=cached")
    run.train(cached)
    assert different("clips", "cached") == []
    card = [(Path("runs") / each / "data_card.json").read_bytes() for each in ("clips", "cached")]
    assert card[0] == card[1] and b"CC0-1.0" in card[0]

    # Half of a run from clips, half from the cache.
    shutil.copytree("runs/clips", "runs/both")
    run.train(config(*told(model_parts, name), "data.cache=cache", "name=both", "resume_from=2"))
    assert different("clips", "both") == []


def test_a_cache_serves_other_lists_of_the_same_clips(model_parts: Path, clip_folder: Path) -> None:
    """A filter, other captions, several rows of one file; in any order."""
    rows = [f"{name},{part}" for name in ("x/a.mp4", "y/c.mp4", "y/d.mp4") for part in ("0,1", "1,2", "0,1")]
    Path("list.csv").write_text(
        "path,start,end,caption,motion\n" + "".join(f"{r},told,{i}\n" for i, r in enumerate(rows))
    )
    told = (f"data.root={clip_folder}", "data.manifest=list.csv", "data.val_clips=0", "data.columns=[motion]")
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


def test_a_cache_of_the_clips_that_a_list_has_grown_by(
    model_parts: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refers to the one that it was made without: training on both is training on all clips, bit for bit."""
    lines = ["path,caption,split", "x/a.mp4,one,train", "x/b.mp4,two,train", "y/c.mp4,three,test"]
    Path("list.csv").write_text("\n".join(lines) + "\n")
    listed = (*told(model_parts, "wan, drawn, with t5"), f"data.root={clip_folder}", "data.manifest=list.csv",
              "data.val_filter=\"split == 'test'\"", "callbacks.validation.every=4",
              "callbacks.checkpoints.every=4")  # fmt: skip
    make("cache", config(*listed), views=3)
    before = {file: file.read_bytes() for file in Path("cache").rglob("*.*") if file.is_file()}
    Path("list.csv").write_text("\n".join([*lines, "y/d.mp4,two,train", "y/e.png,new,train"]) + "\n")
    with pytest.raises(
        ValueError, match="sets.train.clips was 2, and is 4 now; .* out=NEW without=cache, for the clips"
    ):
        make("cache", config(*listed), views=3)
    with pytest.raises(ValueError, match="2 of 4 clips of data.train are not in it.* out=NEW without=cache, then"):
        run.build(config(*listed, "data.cache=cache"))
    for file, content in before.items():
        file.write_bytes(content)  # the list of the refused command

    make("more", config(*listed), views=2, without="cache")
    about = read_about(Path("more"))
    assert {name: each["clips"] for name, each in about["sets"].items()} == {"train": 2} and about[
        "older"
    ] == "../cache"
    (prompts,) = Path("more").glob("prompts-*")
    assert read_about(prompts)["prompts"] == 1, "of two captions one is new"
    assert before == {file: file.read_bytes() for file in Path("cache").rglob("*.*") if file.is_file()}
    run.train(config(*listed, "name=clips"))
    clip_folder.rename(clip_folder.with_name("gone"))
    monkeypatch.setattr(pretrained, "load_encoder", None)
    alone = tuple(each for each in listed if not each.startswith(("data.root", "data.manifest")))
    run.train(config(*alone, "data.cache=more", "name=cached"))
    assert different("clips", "cached") == []

    clip_folder.with_name("gone").rename(clip_folder)
    for without, overrides, said in (
        ("more", (), "without=more holds all clips of this list: train with data.cache=more"),
        ("cache", ("data.fps=4",), "without=cache is of other latents: key.data.fps was 5, and is 4 now"),
        ("cache", ("codec.posterior=mode",), "is of other latents: posterior was sample, and is mode now"),
        ("nowhere", (), "data.cache=nowhere is not there"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            make("third", config(*listed, *overrides), without=without)
    with pytest.raises(ValueError, match="out=cache is the cache that is to be left out"):
        make("cache", config(*listed), without="cache")
    Path("cache").rename("moved")
    with pytest.raises(FileNotFoundError, match="data.cache=more was made without the clips of cache, which is not"):
        run.build(config(*alone, "data.cache=more", "name=other"))
    assert not Path("third").exists()


def test_generated_clips_and_half_the_room(model_parts: Path, clip_folder: Path) -> None:
    world = ("experiment=demo", "data.train.num_clips=6", "data.val.num_clips=2", "data.val_batch_size=2", "~data.root",
             "data.train.labels=[]", "data.val.labels=[]", "~data.labels", "~net/label",
             "~net.vectors.label.num_classes", "~data.max_bad_share", "~data.epoch_clips",
             "~data/shapes")  # fmt: skip
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


class Looking(Number):
    """Says a number of some frames of a clip."""

    entries = {"fps": Entry((), torch.float32)}
    example = 1.0

    def __init__(self, around: Around, *, at: list[int] | None, named: bool) -> None:
        super().__init__(around)
        self.at = at
        self.frames = tuple(at or ()) if named else ()

    def of_batch(self, batch: Batch) -> Tensor:
        if self.at is None:
            return torch.stack([clip.diff(dim=1).abs().mean() for clip in batch.clips])  # nan of no frames
        return torch.stack([clip[:, self.at].mean() for clip in batch.clips])


def looking(at: list[int] | None, named: bool) -> dict[str, Any]:
    target = {"_target_": f"{__name__}.Looking", "_partial_": True, "at": at, "named": named}
    made = config("net/fps=sinusoid", "name=looking")
    return {**made, "signals": {**(made["signals"] or {}), "fps": target}}


def test_a_signal_that_looks_at_frames_that_are_not_kept_is_refused(clip_folder: Path) -> None:
    """Where it does not say that it does, it would be told of frames that are not there."""
    named = looking([0, -1], named=True)
    for out, wanted in (("without", looking([0], named=False)), ("cache", named)):
        make(out, {**wanted, "data": {**wanted["data"], "root": str(clip_folder)}})
    for at, out in ((None, "without"), ([0], "without"), ([-1], "without"), ([2], "without"), ([2], "cache")):
        wanted = looking(at, named=False)
        wanted["data"] |= {"cache": out}
        with pytest.raises(
            ValueError, match=rf"data.cache={out} keeps .* signals.fps looks at others: .* data.cache=null"
        ):
            run.build(wanted)
    assert not Path("runs").exists()
    named["data"] |= {"cache": "cache"}
    run.build(named)
