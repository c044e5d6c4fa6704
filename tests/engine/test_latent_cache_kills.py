"""A latent cache in the making, killed at any moment or shared out over ranks; what it keeps, and what it refuses."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from data.clips import ClipDataset
from data.latents.shards import ShardSet
from dit.engine import caching, run
from dit.engine.interrupts import Interrupts
from scripts import cache_latents
from tests.codec.autoencoders import saved
from tests.engine.latent_caches import config, different, make, told
from tests.engine.runs import changed

Files = dict[str, bytes]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clips, or two prompts, to a shard."""
    monkeypatch.setattr(cache_latents, "bytes_of_clip", lambda *_: 2**27)
    monkeypatch.setattr(cache_latents, "PROMPTS_PER_SHARD", 2)


def files(folder: Path, unfinished: bool = False) -> Files:
    there = (file for file in sorted(folder.rglob("*")) if file.is_file())
    named = {str(file.relative_to(folder)): file for file in there if unfinished or not file.name.startswith(".")}
    return {name: file.read_bytes() for name, file in named.items()}


WRITING = (ShardSet.write.__code__, ShardSet.finish.__code__)


def forked(work: Callable[[], None], until: int | None, writing: bool = False) -> int:
    """Does `work` in a process that kills itself at event number `until`, a call or return of some function of Python
    or C; None: at none. writing: counts those alone that happen while a file is written. The signal that ended it, 0
    for none. How many events there were, and how many of these kind, it says in a file."""
    child = os.fork()
    if child == 0:
        code, seen, depth = 1, [0, 0], 0

        def watch(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal depth
            if frame.f_code in WRITING and event in ("call", "return"):
                depth += 1 if event == "call" else -1
            seen[0] += 1
            seen[1] += depth > 0
            if seen[writing] == until:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            torch.set_num_threads(1)
            sys.setprofile(watch)
            work()
            sys.setprofile(None)
            Path("events").write_text(json.dumps(seen))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.timeout(900)
def test_a_cache_killed_at_any_moment_is_that_of_an_uninterrupted_command(
    model_parts: Path,
    clip_folder: Path,
    small_shards: None,
) -> None:
    """Twenty kills, ten to a cache, every other one while a file is written. What is there at any moment is whole, and
    what it will be in the end."""
    asked = config(*told(model_parts, "wan, drawn, with t5"), f"data.root={clip_folder}")

    def work(out: str) -> Callable[[], None]:
        return lambda: cache_latents.make(cache_latents.Asked(out=out), asked)

    assert forked(work("straight"), None) == 0
    wanted, events = files(Path("straight")), json.loads(Path("events").read_text())
    assert len([name for name in wanted if name.endswith(".safetensors")]) == 7, (
        "2 of clips, 1 of those held out, 4 of prompts"
    )
    rng, killed = random.Random(0), 0
    for cache in ("one", "two"):
        for turn in range(10):
            writing = turn % 2 == 1
            # Not beyond what an earlier process has left to do: then a kill would find nothing.
            left = (1 - len(files(Path(cache))) / len(wanted)) * (0.5 if writing else 0.9)
            until = rng.randrange(1, max(2, int(events[writing] * left)))
            killed += forked(work(cache), until, writing) == signal.SIGKILL
            there = files(Path(cache))
            assert {name: wanted[name] for name in there} == there
        assert forked(work(cache), None) == 0
        assert files(Path(cache), unfinished=True) == files(Path("straight"), unfinished=True)
    assert killed == 20


def test_ranks_share_what_is_missing(
    model_parts: Path,
    clip_folder: Path,
    small_shards: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each makes its own part, of what the first one has found missing; a signal ends it between two clips."""
    asked = config(*told(model_parts, "wan, drawn, with t5"), f"data.root={clip_folder}")
    make("straight", asked)

    made = caching.build(asked)
    making = cache_latents.plan(cache_latents.Asked(out="shared"), made)
    making.begin()
    todo = making.missing()
    with monkeypatch.context() as patched:
        patched.setattr(caching.ranks, "gather_objects", lambda value: [todo])
        for rank in (1, 0):
            patched.setattr(caching.ranks, "place", lambda rank=rank: (rank, 2))
            assert caching.encode(made, making, torch.float32)
            if rank == 1:
                assert making.missing() == todo[::2]
                with pytest.raises(ValueError, match="shards are missing; the same command goes on"):
                    making.finish()
    making.finish()
    shards = {name: content for name, content in files(Path("straight")).items() if name != "clips.parquet"}
    assert files(Path("shared")) == shards

    real = Interrupts.__enter__

    def interrupted(self: Interrupts) -> Interrupts:
        self = real(self)
        os.kill(os.getpid(), signal.SIGTERM)
        return self

    shutil.rmtree(Path("shared/train"))
    with monkeypatch.context() as patched:
        patched.setattr(Interrupts, "__enter__", interrupted)
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            caching.encode(made, making, torch.float32)
    assert not list(Path("shared/train").glob("*"))


GIVEN = ("net=wan22_i2v_tiny", "net.width=24", "net.heads=2", "net.depth=1", "net.patch=[1,1,1]", "net.in_channels=4",
         "net.out_channels=4", "net.text_width=16", "text=none", "given=beside", "prediction=v", "codec=pretrained",
         "codec.batch=1", "~net/label", "~net.vectors.label.num_classes", "~data.labels", "~text.width", "~text.depth",
         "~text.ngrams", "net/text=none")  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        ("conditioning=t2v_i2v", "given.unknown=grey"),
        ("conditioning=first_last",),
    ],
)
def test_frames_that_are_given_beside_the_clip(
    overrides: tuple[str, ...], model_parts: Path, clip_folder: Path
) -> None:
    """Their latents are kept too, with the pictures that previews begin with."""
    asked = (*GIVEN, *overrides, f"codec.folder={model_parts / 'vae'}", "trainer.max_steps=2")
    run.train(config(*asked, f"data.root={clip_folder}", "name=clips"))
    make("cache", config(*asked, f"data.root={clip_folder}"))
    clip_folder.rename(clip_folder.with_name("gone"))
    cached = config(*asked, "data.cache=cache", "name=cached")
    run.train(cached)
    assert different("clips", "cached") == []
    about = json.loads(Path("cache/about.json").read_text())
    ends = "first_last" in overrides[0]
    assert about["given"]["frames"] == [[0, 4] if ends else [0]]
    assert about["frames"] == ([0, -1] if ends else [] if "t2v" in overrides[0] else [0])
    with pytest.raises(
        ValueError, match="lacks latents of the frames that are given|lacks pixels that this run looks at"
    ):
        other = "conditioning=i2v" if ends or "t2v" in overrides[0] else "conditioning=first_last"
        unknown = "given.unknown=nearest" if "grey" in overrides[-1] else "given.unknown=grey"
        run.build(config(*asked, other, unknown, "data.cache=cache", "name=other"))
    with pytest.raises(ValueError, match="gives frames beside the clip in .* ways or more"):
        caching.build(config(*asked, "given.unknown=grey", "conditioning=tasks", f"data.root={Path('gone')}"))


@pytest.mark.parametrize("shapes", ["buckets", "packed"])
def test_clips_of_several_shapes(shapes: str, model_parts: Path, clip_folder: Path) -> None:
    rows = [("x/a.mp4", 30, 64, 96), ("x/b.mp4", 30, 96, 64), ("y/c.mp4", 4, 64, 64), ("y/d.mp4", 30, 64, 96)]
    rows.append(("y/f.mp4", 30, 2, 2))  # held out, and of no shape: no other is held out in its place
    lines = [f"{name},{name},{frames},10,{height},{width},{name[0]}" for name, frames, height, width in rows]
    Path("list.csv").write_text("\n".join(["path,caption,frames,fps,height,width,label", *lines]) + "\n")
    several = ("data/shapes=" + shapes, "data.shapes.shapes=[[5,8,8],[5,8,12],[5,12,8],[2,8,8]]", "data.val_clips=2",
               "data.labels=column", "data.fps=5", "codec.scale=2", "trainer.max_steps=2")  # fmt: skip
    listed = (f"data.root={clip_folder}", "data.manifest=list.csv")
    run.train(config(*several, *listed, "name=clips"))
    make("cache", config(*several, *listed), views=4)
    clip_folder.rename(clip_folder.with_name("gone"))
    run.train(config(*several, "data.cache=cache", "name=cached"))
    assert different("clips", "cached") == []
    card = [(Path("runs") / each / "data_card.json").read_bytes() for each in ("clips", "cached")]
    assert card[0] == card[1] and b"smaller than every shape" in card[0]
    with pytest.raises(ValueError, match="of data.train are kept in another shape, e.g. .*: .* there, .* here"):
        run.build(config(*several, "data.shapes.shapes=[[5,8,8]]", "data.cache=cache", "name=other"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "weights": (
        {"codec.folder": "other"},
        "codec.fingerprint was .* when it was made, and is .*; give",
    ),
    "resolution": ({"data.height": 16}, "data.height was 8 when it was made, and is 16 in this run"),
    "frame rate": ({"data.fps": 4}, "data.fps was 5 when it was made, and is 4"),
    "frames": ({"data.num_frames": 9}, "data.num_frames was 5 when it was made, and is 9"),
    "lead": ({"codec.lead": 1}, "codec.lead was 0 when it was made, and is 1"),
    "draws": ({"codec.posterior": "sample"}, "keeps the mode of latents, and codec.posterior=sample draws them"),
    "more held out": ({"data.val_clips": 4}, "of .* clips of data.val are not in it, e.g. .*val_clips"),
    "a column": ({"data.columns": ["speed"]}, "clips.parquet: no column speed"),
    "other clips": (
        {"data.root": "elsewhere"},
        "of 2 clips of data.train are not in it, e.g. .*png",
    ),
    "no folder": ({"data.cache": "nowhere"}, "data.cache=nowhere is not there: scripts/cache_latents.py out=nowhere"),
    "another folder": ({"data.cache": "elsewhere"}, "data.cache=elsewhere has no about.json: scripts"),
}


@pytest.fixture
def cached(model_parts: Path, clip_folder: Path, small_shards: None) -> tuple[str, ...]:
    """Overrides of a run on a cache of means."""
    of_run = (*told(model_parts, "wan, drawn, with t5"), "codec.posterior=mode")
    make("cache", config(*of_run, f"data.root={clip_folder}"))
    (clip_folder.with_name("elsewhere") / "k").mkdir(parents=True)
    for name in ("a", "b", "c", "z"):
        shutil.copy(clip_folder / "y/e.png", clip_folder.with_name("elsewhere") / f"k/{name}.png")
    return (*of_run, "data.cache=cache")


def test_a_cache_of_something_else_is_refused(
    cached: tuple[str, ...],
    model_parts: Path,
    clip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In one line that says what differs, before anything is written."""
    saved("wan 2.1", Path("other"), latents_std=[1.0, 1.0, 1.0, 2.0])
    fits = config(*cached)
    key = run.build(fits).data.cache.about["key"]  # type: ignore[attr-defined]
    assert key["data"].keys() == {"num_frames", "image_frames", "height", "width", "fps"}, "all else deals clips out"
    for about, (changes, said) in REFUSED.items():
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            run.build(reduce(lambda config, change: changed(config, *change), changes.items(), fits))
        assert "\n" not in str(caught.value), about
    with monkeypatch.context() as patched:
        patched.setattr(ClipDataset, "making", "2: cubic")
        with pytest.raises(ValueError, match="preprocessing was .*bilinear.* when it was made, and is .*cubic"):
            run.build(fits)
        patched.setattr("dit.recipes.denoising.Denoising.sees_pixels", True)
        with pytest.raises(ValueError, match="data.cache=cache holds latents, and Denoising works on pixels"):
            run.build(fits)
    run.build(changed(fits, "text.parts.tokens.length", 12))
    assert "data.cache=cache holds no prompts of this text encoder, which is loaded to say them" in caplog.text
    assert not Path("runs").exists()


def test_a_cache_that_is_spoilt(cached: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    """One line each; the command that made it mends it."""
    kept, fits = files(Path("cache"), unfinished=True), config(*cached)
    index, shard, about = (
        Path("cache") / name for name in ("train/index.arrow", "train/000001.safetensors", "about.json")
    )
    for file, content, said in (
        (about, b"{", "about.json is damaged"),
        (about, b'{"format": 9}', "is a cache of format 9, this code reads 1; make it again"),
        (index, None, "cache/train is not finished: 0 of 2 shards are missing; the same command"),
        (index, b"ARROW1", "index.arrow is damaged, or of another cache; remove it"),
        (
            Path("cache/clips.parquet"),
            None,
            "has no list of clips .clips.parquet.*data.root or data.manifest says",
        ),
    ):
        before = file.read_bytes()
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            run.build(fits)
        assert "\n" not in str(caught.value)
        file.write_bytes(before)
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="000001.safetensors is damaged at .*checksum.*: remove it") as caught:
        run.train(config(*cached, "trainer.max_steps=4"))
    assert "\n" not in str(caught.value)
    shard.unlink()
    make("cache", config(*(each for each in cached if "cache" not in each), "data.root=clips"))
    assert files(Path("cache"), unfinished=True) == kept


def test_a_command_that_cannot_be(cached: tuple[str, ...], clip_folder: Path, tmp_path: Path) -> None:
    of_clips = (*(each for each in cached if "cache" not in each), "data.root=clips")
    Path("file").touch()
    Path("full").mkdir()
    Path("full/thesis.txt").touch()
    for changes, overrides, said in (
        ({"out": "file"}, (), "out=file is a file, and the cache goes into a folder"),
        ({"out": "full"}, (), "out=full holds something else .thesis.txt.; give a folder of its own"),
        ({"out": "cache", "views": 2}, (), "cache holds another cache: sets.train.views was 1, and is 2 now; give"),
        ({"out": "cache", "dtype": "bfloat16"}, (), "dtype was float32, and is bfloat16 now"),
        ({"out": "cache"}, ("data.val_clips=1",), "sets.train.clips was 4, and is 5 now"),
        ({"out": "new"}, ("data.cache=cache",), "data.cache=cache is for training; a cache is made of clips"),
        ({"out": "new"}, ("data.num_frames=8",), "num_frames=8 is not 4k.1 for AutoencoderKLWan; nearest: 5, 9"),
    ):
        before = sorted(str(each) for each in tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=said) as caught:
            make(changes.pop("out"), config(*of_clips, *overrides), **changes)
        assert "\n" not in str(caught.value) and sorted(str(each) for each in tmp_path.rglob("*")) == before
    for typed, said in (
        (["views=2"], "out=FOLDER is not given: where the cache is to be"),
        (["out=x", "views=0"], "views=0 must be at least 1"),
        (["out=x", "batch=two"], "batch=two must be a whole number"),
        (["out=x", "dtype=float16"], "dtype=float16 must be one of float32, bfloat16"),
        (["out=x", "--fast"], "'--fast' is not name=value, as in"),
    ):
        with pytest.raises(ValueError, match=said):
            cache_latents.main(typed)
    # Captions that were changed since: latents stay, and the folder of prompts is to be removed.
    (clip_folder / "x/b.txt").write_text("another cat")
    with pytest.raises(
        ValueError, match="cache/prompts-.* holds another cache: .* or remove it, to encode the captions"
    ):
        make("cache", config(*of_clips))
