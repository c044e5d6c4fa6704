"""Actions frame by frame: from a set of clips through training to samples, chained ones and latent caches too."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from data.sets.base import ClipSet, Made, rng
from data.sets.make import make
from dit.codec.compression import Compression
from dit.diffusion.denoiser import Denoiser
from dit.engine import run
from dit.net.actions import ActionEmbedding, shares_of_pixels
from dit.recipes.base import Clips
from dit.recipes.denoising import Denoising
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import Request
from dit.sampling.tasks import LongTextToVideo
from dit.signals.action import Action
from dit.signals.base import Around, check_asked, cond_of_batch, cond_of_example, cond_of_requests
from scripts.make_dataset import write
from tests.engine.latent_caches import config, different
from tests.engine.latent_caches import make as make_cache
from tests.engine.test_packed import SHAPES, double, item, losses_and_gradients, module_of, objective
from tests.net.conftest import Build, build, randomised  # noqa: F401

CPU = torch.device("cpu")
CLIP: Any = SimpleNamespace(num_frames=4, height=4, width=4, fps=8.0, begin=0, whole=4, first=None, last=None)


def signal(num_actions: int = 5) -> Action:
    return Action(Around(torch.nn.Identity()), column="actions", num_actions=num_actions)


def batch(actions: Tensor) -> Batch:
    return Batch(torch.zeros(len(actions), 3, 4, 2, 2), ["a", "b"], {"caption": ["", ""], "actions": actions})


# ---- the signal


def test_a_batch_says_the_action_of_each_frame_and_dropout_says_none() -> None:
    told = batch(torch.tensor([[0.0, 1, 2, 4], [3, 3, -1, 0]]))
    cond = cond_of_batch({"action": signal()}, told)
    assert cond["action"].dtype == torch.int64
    assert cond["action"].tolist() == [[0, 1, 2, 4], [3, 3, 5, 0]], "-1 says nothing, as num_actions does"
    assert cond_of_batch({"action": signal()}, told, [True, False])["action"].tolist() == [[5] * 4, [3, 3, 5, 0]]
    assert cond_of_example({"action": signal()})["action"].tolist() == [[0]], "one for all frames, of any clip"


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (torch.tensor([[0.0, 1, 2, 5], [0, 0, 0, 0]]), "actions says action 5, and this network knows 0 to 4"),
        (torch.tensor([[0.5, 1, 2, 3], [0, 0, 0, 0]]), "action 0.5"),
        (torch.tensor([[-2.0, 1, 2, 3], [0, 0, 0, 0]]), "action -2"),
        (torch.zeros(2, 64), r"\(2, 64\) numbers for 2 clips of 4 frames.*data.frame_columns=\[actions\]"),
        (torch.zeros(2, 4, 2), r"\(2, 4, 2\) numbers for 2 clips"),
        (["up", "down"], "has texts for 2 clips"),
    ],
)
def test_values_that_are_no_actions_of_frames(actions: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        cond_of_batch({"action": signal()}, batch(actions))
    assert "\n" not in str(caught.value)


def said(value: Any, clip: Any = CLIP) -> list[int]:
    request = Request("", "", 0, signals={} if value is None else {"action": value})
    check_asked({"action": signal()}, request, clip)
    told: list[int] = cond_of_requests({"action": signal()}, [request], clip, CPU)["action"][0].tolist()
    return told


def test_a_request_says_one_for_all_frames_or_one_for_each() -> None:
    assert said(3) == said("3") == [3] * 4 and said(None) == [5] * 4
    assert said("0 1 2 4") == said([0, 1, 2, 4]) == [0, 1, 2, 4]
    assert said("2*3 0") == [2, 2, 2, 0]
    away = cond_of_requests({"action": signal()}, [Request("", "", 0, signals={"action": 3})], CLIP, CPU, away=True)
    assert away["action"].tolist() == [[5] * 4], "guidance leads away from no action"


def test_chained_clips_are_told_their_own_frames() -> None:
    whole = SimpleNamespace(**{**vars(CLIP), "whole": 10})
    for begin in (0, 3, 6):
        later = SimpleNamespace(**{**vars(whole), "begin": begin})
        assert said("0*3 1*3 2*4", later) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2][begin : begin + 4]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("5", "5 is no action; they are numbered 0 to 4"),
        ("up", "up is no action"),
        ("1*x", r"1\*x is no action"),
        ("-1", "-1 is no action"),
        ("", "says nothing"),
        ("0 1 2", "says what is done at 3 frames, and the sample has 4: give one number for all, or 4"),
        ("0*5", "at 5 frames, and the sample has 4"),
    ],
)
def test_what_is_asked_and_cannot_be_is_one_line(value: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        said(value)
    assert "\n" not in str(caught.value)


def test_data_that_lacks_them_or_has_more_is_refused() -> None:
    class Data:
        classes = ()
        columns = ("actions",)

        def span(self, column: str) -> tuple[float, float]:
            return 0.0, 17.0

    with pytest.raises(ValueError, match=r"0 to 17, and this network knows 0 to 4: net.vectors.action.num_actions=18"):
        signal().check(Data(), "action")
    signal(18).check(Data(), "action")
    lacking: Any = SimpleNamespace(classes=(), columns=("motion",))
    with pytest.raises(ValueError, match=r"carries motion: data.frame_columns=\[actions\] reads it"):
        signal().check(lacking, "action")


# ---- the network


@pytest.mark.parametrize("compression", [
    Compression((1, 8, 8), False), Compression((4, 8, 8), False), Compression((4, 8, 8), True),
    Compression((4, 8, 8), True, lead=1), Compression((2, 8, 8), True, lead=2),
])  # fmt: skip
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_each_latent_frame_takes_the_mean_over_its_pixel_frames(compression: Compression, blocks: int) -> None:
    count = compression.stride[0] * blocks + (1 if compression.causal else compression.stride[0])
    latents = compression.latent_shape(count, 8, 8)[0]
    shares = shares_of_pixels(compression, count, CPU)
    assert shares.shape == (latents, count)
    for latent in range(latents):
        own = compression.frames_of(latent) or range(1)  # what stands for no pixels is a copy of the first
        wanted = torch.zeros(count)
        wanted[list(own)] = 1 / len(own)
        torch.testing.assert_close(shares[latent], wanted)


def test_frames_with_other_actions_have_other_vectors() -> None:
    torch.manual_seed(0)
    part = ActionEmbedding(6, num_actions=3)
    part.on_latents(Compression((2, 8, 8), True))
    value, t = torch.tensor([[0, 1, 1, 2, 3]]), torch.zeros(1, 1)
    vectors = part.at(value, t)
    table = part.table.weight
    torch.testing.assert_close(vectors[0], torch.stack([table[0], table[1], (table[2] + table[3]) / 2]))
    assert part.at(value[:, :1], t).shape == (1, 1, 6), "one for all frames"


ACTED = ("+net.vectors.action._target_=dit.net.actions.ActionEmbedding", "+net.vectors.action._partial_=true",
         "+net.vectors.action.num_actions=5")  # fmt: skip


@pytest.mark.parametrize("parts", [("net/text=cross",), ("net/text=joint", "net.concat_channels.given=1")])
def test_actions_of_packed_clips(randomised: Build, parts: tuple[str, ...]) -> None:  # noqa: F811
    """Loss and gradients of one clip at a time, each steered frame by frame."""
    from data.batch import collate

    generator = torch.Generator().manual_seed(0)
    items = [item(i) for i in range(len(SHAPES))]
    for each, shape in zip(items, SHAPES, strict=True):
        each["columns"] = {"actions": torch.randint(0, 5, (shape.num_frames,), generator=generator).tolist()}
    net = randomised("net.patch=[1,2,1]", "net.out_channels=3", *ACTED, *parts)
    module = module_of(net, objective(given=len(parts) > 1))
    pack = double(collate(items, packed=True))
    module.signals = {**module.signals, "action": Action(Around(net), column="actions", num_actions=5)}
    wanted = losses_and_gradients(module, [pack.one(i) for i in range(len(pack))])
    found = losses_and_gradients(module, [pack])
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)
    others = replace(pack, values={**pack.values, "actions": (pack.values["actions"] + 1) % 5})  # type: ignore[operator]
    assert (losses_and_gradients(module, [others])[0] - found[0]).abs().min() > 1e-6, "each clip is steered"


# ---- a set, a training, samples


class Game:
    """A square that is pushed: action 1 moves it to the right, 2 to the left, 0 leaves it."""

    name, fps, lossless, captions_beside, manifest = "game", 8.0, True, False, "manifest.jsonl"
    packages = ("numpy",)

    def settings(self) -> dict[str, Any]:
        return {}

    def clip(self, index: int) -> Made:
        import numpy as np

        actions = [int(action) for action in rng(0, index).integers(0, 3, 12)]
        frames, place = np.zeros((12, 16, 16, 3), np.uint8), 6
        for frame, action in zip(frames, actions, strict=True):
            frame[6:10, place : place + 4] = 255
            place = min(12, max(0, place + (0, 1, -1)[action]))
        return Made(frames, "a square", {"licence": "generated", "source": "game", "actions": actions})

    def about(self) -> str:
        return "# Game"


@pytest.fixture
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "reference_rate", lambda *_: (1e12, "not measured"))  # seconds for each run
    clips: ClipSet = Game()
    list(make(clips, tmp_path / "game", 6, write, "none"))
    return tmp_path / "game" / "manifest.jsonl"


PLAYED = (
    "data.frame_columns=[actions]", "signals=action", "net.vectors.action.num_actions=3", "data.labels=null",
    "~net/label", "~net.vectors.label.num_classes", "data.num_frames=4", "data.fps=8", "data.height=16",
    "data.width=16", "net.patch=[2,8,8]", "data.val_clips=1",
)  # fmt: skip


def played(game: Path, *overrides: str) -> dict[str, Any]:
    return config(*PLAYED, f"data.manifest={game}", *overrides)


def test_from_a_set_through_training_to_samples(game: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Tensor] = []
    losses = Denoising.losses

    def noted(self: Denoising, nets: Any, clips: Clips, step: int) -> Any:
        told.append(clips.cond["action"])
        return losses(self, nets, clips, step)

    monkeypatch.setattr(Denoising, "losses", noted)
    run.train(played(game, "name=player"))
    rows = [json.loads(line) for line in game.read_text().splitlines()]
    excerpts = {tuple(row["actions"][at : at + 4]) for row in rows for at in range(9)} | {(3, 3, 3, 3)}
    seen = {tuple(row) for each in told for row in each.tolist()}
    assert len(seen) > 3 and seen <= excerpts, "what was done in the frames that were shown, or nothing"

    pipeline = Pipeline.from_checkpoint("runs/player", device="cpu", num_steps=1)
    torch.manual_seed(0)
    for parameter in pipeline.net.parameters():  # four steps have hardly opened the network's gates
        torch.nn.init.normal_(parameter, std=0.3)
    asked = functools.partial(pipeline, ["a square"], [0])
    right, left = (asked(signals={"action": each}).latents for each in (1, "2*4"))
    assert torch.equal(asked(signals={"action": "1 1 1 1"}).latents, right) and not torch.equal(left, right)
    assert not torch.equal(asked(signals={"action": "1 1 2 2"}).latents, right)

    heard: list[list[int]] = []
    init = Denoiser.__call__

    def listened(self: Denoiser, x: Tensor, t: Tensor, cond: Any) -> Any:
        heard.append(cond["action"][0].tolist())
        return init(self, x, t, cond)

    monkeypatch.setattr(Denoiser, "__call__", listened)
    asked(task=LongTextToVideo(num_context=2, times=3), signals={"action": "0*2 1*2 2*2 0*2"})
    said = [each for each in heard if each != [3] * 4]
    assert said == [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 0, 0]], "each clip of a chain hears its own frames"
    with pytest.raises(ValueError, match="at 4 frames, and the sample has 8"):
        asked(task=LongTextToVideo(num_context=2, times=3), signals={"action": "0 1 2 0"})
    with pytest.raises(ValueError, match="0 to 2, and this network knows 0 to 1: net.vectors.action.num_actions=3"):
        run.build(played(game, "name=less", "net.vectors.action.num_actions=2"))
    with pytest.raises(ValueError, match=r"the data carries none: data.frame_columns=\[actions\] reads it"):
        run.build(played(game, "name=none", "data.frame_columns=null"))


def test_a_latent_cache_knows_which_frames_were_shown(game: Path) -> None:
    run.train(played(game, "name=clips"))
    make_cache("cache", played(game), views=2)
    cached = played(game, "data.cache=cache", "data.manifest=null", "name=cached")
    run.train(cached)
    assert different("clips", "cached") == []
    make_cache("without", played(game, "~data.frame_columns", "~signals", "~net.vectors.action.num_actions"))
    with pytest.raises(ValueError, match=r"does not say which frames of a file a clip shows.*\[actions\].*it again"):
        run.build(played(game, "data.cache=without", "name=other"))
