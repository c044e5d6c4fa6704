"""Training from latents that were made beforehand is training from clips."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dit.engine import run
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
