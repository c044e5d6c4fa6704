"""Batches of clips of several shapes, packed into one sequence or bucket by bucket: loss and gradients are those of one
clip at a time."""

from __future__ import annotations

import zlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.batch import Batch, Shape, collate
from dit.codec.pixel import PixelCodec
from dit.diffusion import conditioning, levels, space
from dit.diffusion.given import HELD, Beside, Showing
from dit.diffusion.loss import LossOutput, Noised, Objective
from dit.diffusion.moving import Moving
from dit.diffusion.path import Linear
from dit.diffusion.prediction import Flow
from dit.diffusion.weighting import MinSNR
from dit.engine.arithmetic import Arithmetic
from dit.engine.callbacks.metrics import Metrics
from dit.engine.clip_mean import ClipMean
from dit.engine.fitting import check_packed
from dit.engine.memory import check_batches
from dit.engine.module import StepOutput, VideoDiffusion
from dit.engine.writers import Writers
from dit.flops import count_flops
from dit.recipes.aligned import Aligned
from dit.recipes.alignment import Alignment
from dit.recipes.base import Loss
from dit.recipes.denoising import Denoising
from dit.signals.base import Around, cond_of_example
from dit.signals.builtin import BUILT_IN
from dit.text.bytes import ByteEncoder
from tests.engine.small import distilled, model
from tests.net.conftest import Build, build, randomised  # noqa: F401

SHAPES = (Shape(4, 6, 5), Shape(2, 4, 3), Shape(1, 8, 2), Shape(2, 4, 3), Shape(4, 6, 5))
CAPTIONS = ("a red circle", "", "two very small blue bars that move", "up", "a")
DOUBLE = torch.float64


def item(index: int) -> Any:
    generator = torch.Generator().manual_seed(index)
    pixels = torch.randint(0, 256, (3, *SHAPES[index]), generator=generator, dtype=torch.uint8)
    return {"pixels": pixels, "caption": CAPTIONS[index], "id": f"id{index}", "fps": 8.0 + index}


def double(batch: Batch) -> Batch:
    return batch._each(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


@pytest.fixture
def pack() -> Batch:
    return double(collate([item(i) for i in range(len(SHAPES))], packed=True))


class Seeded(Objective):
    """Draws what it draws for a clip from a generator that the clip itself seeds, whatever shares its batch."""

    def noise(self, x0: Tensor, num_tokens: int, generator: Any = None, footage: Any = None) -> Noised:
        parts = []
        for i, one in enumerate(x0.split(1)):
            seed = zlib.crc32(one.numpy().tobytes())
            own = torch.Generator().manual_seed(seed)
            seen = None if footage is None else replace(footage, pixels=footage.pixels[i : i + 1])
            parts.append(super().noise(one, num_tokens, own, seen))
        return Noised.stacked(parts)

    def noise_groups(self, x0: Any, num_tokens: Any, generator: Any = None, footage: Any = None) -> list[Noised]:
        return [self.noise(*each) for each in zip(x0, num_tokens, [None] * len(x0), footage, strict=True)]


TASKS: dict[str, conditioning.Pattern] = {
    "none": conditioning.NoFrame(), "first": conditioning.FirstFrame(), "any": conditioning.RandomSubset()
}  # fmt: skip


def objective(
    per_frame: bool = False, given: bool = False, showing: Showing = HELD, kind: type[Objective] = Seeded
) -> Objective:
    drawn: levels.Distribution = levels.Shifted(levels.LogitNormal(0.0, 1.0), levels.TokenShift(16))
    drawn = levels.PerFrame(drawn) if per_frame else drawn
    tasks = conditioning.RandomTasks(TASKS, dict.fromkeys(TASKS, 1.0), 0.0 if showing is not HELD else 0.3)
    return kind(
        Linear(), Flow(), drawn, MinSNR(5.0), tasks if given else conditioning.Unconditional(), space.X0(), showing
    )


class Seen(nn.Module):
    """An encoder for alignment: two frames of two by two places, of any clip."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool3d(pixels, (2, 2, 2)).sin()


def module_of(net: Any, of: Objective, **changes: Any) -> VideoDiffusion:
    torch.manual_seed(0)
    text = ByteEncoder(10, 0, 2, 63, [], 1)
    made = model(
        net=net, codec=PixelCodec(0.5), text=text, objective=of, caption_dropout=0.0,
        **{"recipe": Denoising(of), **changes},
    ).double()  # fmt: skip
    kinds = {name: kind(Around(net, text)) for name, kind in BUILT_IN.items() if name != "label"}
    made.signals = {
        name: each for name, each in kinds.items() if {*each.entries} & {*net.reads.required, *net.reads.optional}
    }
    return made


def losses_and_gradients(module: VideoDiffusion, batches: list[Batch]) -> list[Tensor]:
    """Each clip's loss, and the gradients of their mean to all that is trained."""
    module.zero_grad(set_to_none=True)
    found, clips = [], sum(map(len, batches))
    for batch in batches:
        total = module.training_step(batch, 0)
        (total * len(batch) / clips).backward()
        assert module.last_step is not None
        found.append(module.last_step.losses["net"].per_sample)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters() if p.requires_grad]
    assert sum(int(bool(grad.any())) for grad in grads) > len(grads) / 2
    return [torch.cat(found), *grads]


NETS = {
    "cross-attention": ["net/text=cross", "net/position=sincos", "net/fps=sinusoid"],
    "joint, in front": ["net/text=joint", "net/position=rope3d"],
    "joint, behind": ["net/text=joint_behind", "net/position=learned", "net/modulation=adaln_single"],
    "recomputed": ["net/text=joint_behind", "net/checkpointing=blocks"],
    "two streams": ["net/text=joint", "net.pattern=D", "net/position=rope3d_fitted"],
    "layouts": ["net/text=cross", "net.pattern=STWWC", "net.depth=5", "net.templates.W.layout.window=[1,2,2]"],
    "layouts of a joint sequence": ["net/text=joint", "net.pattern=STW", "net.depth=3", "net.concat_channels.given=1"],
}


@pytest.fixture
def buckets() -> list[Batch]:
    """The clips of `pack` in batches of one shape, in the same order."""
    indices = [[i for i, own in enumerate(SHAPES) if own == shape] for shape in dict.fromkeys(SHAPES)]
    return [double(collate([item(i) for i in alike])) for alike in indices]


@pytest.mark.parametrize("drawn", ["one level", "levels of frames", "given frames"])
@pytest.mark.parametrize("parts", NETS.values(), ids=NETS)
def test_packs_and_buckets_are_one_clip_at_a_time(
    randomised: Build,  # noqa: F811
    pack: Batch,
    buckets: list[Batch],
    parts: list[str],
    drawn: str,
) -> None:
    net = randomised("net.patch=[1,2,1]", "net.out_channels=3", *parts)
    module = module_of(net, objective(drawn == "levels of frames", drawn == "given frames"))
    assert pack.is_packed and len(pack.groups) == 3
    wanted = losses_and_gradients(module, [pack.one(i) for i in range(len(pack))])
    assert [len(bucket) for bucket in buckets] == [2, 2, 1] and not buckets[0].is_packed
    torch.testing.assert_close(losses_and_gradients(module, buckets), wanted, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(losses_and_gradients(module, [pack]), wanted, rtol=1e-8, atol=1e-9)
    step = module.last_step
    assert step is not None and sum(step.clips.values()) == len(pack)
    assert step.tokens == sum(f * (h // 2) * w for f, h, w in SHAPES)


def test_frames_shown_beside_packed_clips(randomised: Build, pack: Batch) -> None:  # noqa: F811
    net = randomised("net.patch=[1,2,1]", "net.out_channels=3", "+net.concat_channels.given_latents=3")
    module = module_of(net, objective(given=True, showing=Beside("grey")))
    wanted = losses_and_gradients(module, [pack.one(i) for i in range(len(pack))])
    torch.testing.assert_close(losses_and_gradients(module, [pack]), wanted, rtol=1e-8, atol=1e-9)


def test_alignment_of_packed_clips(randomised: Build, pack: Batch) -> None:  # noqa: F811
    net, of = randomised("net.patch=[1,2,1]", "net.out_channels=3"), objective()

    def alignment(width: int) -> Alignment:
        torch.manual_seed(1)
        return Alignment(width, block=0, weight=0.5, hidden=8, features=3, encoder=Seen())

    module = module_of(net, of, recipe=Aligned(Denoising(of), alignment))
    assert module.recipe.takes_packed
    wanted = losses_and_gradients(module, [pack.one(i) for i in range(len(pack))])
    torch.testing.assert_close(losses_and_gradients(module, [pack]), wanted, rtol=1e-8, atol=1e-9)


def test_noise_of_groups_is_that_of_batches() -> None:
    """One group draws bit for bit what a batch does; of several each clip's levels are those of its own size."""
    x0 = torch.randn(3, 3, 4, 2, 2)
    for of in (objective(kind=Objective), objective(True, True, kind=Objective)):
        alone = of.noise(x0, 16, torch.Generator().manual_seed(1))
        (grouped,) = of.noise_groups([x0], [16], torch.Generator().manual_seed(1))
        assert all(torch.equal(a, b) for a, b in zip(alone[:5], grouped[:5], strict=True))
    many = [torch.zeros(500, 3, frames, 2, 2) for frames in (4, 1)]
    shifted = objective(True, kind=Objective)
    small, large = shifted.noise_groups(many, [16, 1600], torch.Generator().manual_seed(2))
    assert small.t.shape == (500, 4) and large.t.shape == (500, 1) and large.x_t.shape == many[1].shape
    assert abs(float(small.t.median()) - 0.5) < 0.03 and abs(float(large.t.median()) - 10 / 11) < 0.02
    given = objective(given=True, kind=Objective).noise_groups(many, [16, 16], torch.Generator().manual_seed(3))
    assert not given[1].given.any() and 0.2 < float(given[0].given[:, 0].float().mean()) < 0.8  # never a whole clip


SPREAD = levels.Stratified(levels.Uniform())


@pytest.mark.parametrize(
    "drawn",
    [
        SPREAD,
        Moving(SPREAD, levels.Stratified(levels.LogitNormal(0.0, 9.0)), 1, 2),
        levels.Mixture({"a": SPREAD, "b": SPREAD}, {"a": 1.0, "b": 0.0}),
    ],
    ids=lambda drawn: type(drawn).__name__,
)
def test_levels_are_spread_over_all_clips_of_a_pack(drawn: levels.Levels) -> None:
    groups = [levels.Group(clips, frames, 8) for clips, frames in ((3, 4), (1, 1), (4, 2))]
    made = drawn.of_groups(groups, torch.Generator().manual_seed(0), "cpu")
    assert [tuple(t.shape) for t in made] == [(3, 1), (1, 1), (4, 1)]
    assert sorted((torch.cat(made) * 8).long().flatten().tolist()) == list(range(8))


def test_losses_of_several_shapes_join() -> None:
    """Frames that a shorter clip does not have count as given."""
    of = objective(given=True, kind=Objective)
    parts = []
    for frames in (3, 1):
        noised = of.noise(torch.randn(2, 3, frames, 2, 2), 8)
        parts.append(of.compare(noised, torch.zeros_like(noised.x0)))
    joined = LossOutput.joined(parts)
    assert joined.loss == torch.cat([part.per_sample for part in parts]).mean()
    assert joined.per_frame.shape == joined.t.shape == joined.given.shape == (4, 3)
    assert torch.equal(joined.per_frame[:2], parts[0].per_frame) and torch.equal(joined.given[:2], parts[0].given)
    assert joined.given[2:, 1:].all() and not joined.per_frame[2:, 1:].any()


def test_gradients_of_uneven_batches_are_those_of_one_batch() -> None:
    """Of micro-batches here; of ranks in `test_parallel`."""
    weight, whole = nn.Parameter(torch.ones(3)), torch.arange(18.0).view(6, 3)
    mean = ClipMean()
    for batch in whole.split([3, 1, 2]):
        loss = mean.summed((batch @ weight).square().mean(), len(batch))
        (loss / 3).backward()  # as accumulation divides
        mean.weigh([weight], 3, 1, torch.device("cpu"))
    (wanted,) = torch.autograd.grad((whole @ weight).square().mean(), weight)
    torch.testing.assert_close(weight.grad, wanted)
    assert mean.counts == []  # the next step counts anew


def test_validation_of_several_shapes_is_that_of_each_clip(randomised: Build, pack: Batch) -> None:  # noqa: F811
    """Each clip draws its noise by its id."""
    net = randomised("net.patch=[1,2,1]", "net.out_channels=3", "net/text=joint")
    module = module_of(net, objective(given=True, kind=Objective))
    with torch.no_grad():
        alone = [module.validation_step(pack.one(i), 0, [0.3, 0.7], 1)[0] for i in range(len(pack))]
        together = module.validation_step(pack, 0, [0.3, 0.7], 10)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a.loss.per_frame, b.loss.per_frame, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(a.errors, b.errors, rtol=1e-8, atol=1e-9)


def test_arithmetic_is_that_of_each_clip_alone(randomised: Build) -> None:  # noqa: F811
    net = randomised("net.patch=[1,2,1]", "net.out_channels=3", "net.depth=1", "net.concat_channels.given=null")
    module = module_of(net, objective())
    counted = Arithmetic(module, later=True)
    assert all(p.is_meta for p in counted.net.parameters()) and not any(p.is_meta for p in net.parameters())
    small, large = counted.of_passes((1, 2, 3)), counted.of_passes((2, 4, 6))
    told = cond_of_example(module.signals)
    assert large > small == count_flops(net, (1, 3, 1, 2, 3), (1, 1), told, backward=True) > 0
    assert counted.of({(1, 2, 3): 3, (2, 4, 6): 1}) == 3 * small + large
    assert counted.of_token((2, 4, 6)) == large / 24


def test_what_was_seen_is_summed_up_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and FLOPs of clips of several shapes; losses count by their clips."""
    rows: list[dict[str, float]] = []
    module = model(uneven=True)

    def step(metrics: Metrics, number: int, loss: float, clips: int) -> None:
        shape = (1, 2, clips)
        losses = {"net": Loss(torch.tensor(loss), torch.full((clips,), loss), torch.tensor(loss), {})}
        module.last_step = StepOutput(losses, 10 * clips, {shape: clips}, float(clips))
        optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
        trainer = SimpleNamespace(global_step=number, world_size=1, optimizers=[optimizer])
        metrics.on_train_batch_end(trainer, module, None, SimpleNamespace(position=number), 0)  # type: ignore[arg-type]

    def made() -> Metrics:
        metrics = Metrics(Writers([]), SimpleNamespace(norms={}), every=3)  # type: ignore[arg-type]
        metrics.arithmetic = SimpleNamespace(of=lambda clips: sum(n * s[2] ** 2 for s, n in clips.items()))  # type: ignore[assignment]
        monkeypatch.setattr(metrics, "write", lambda step, values: rows.append(values))
        return metrics

    whole = made()
    for number, (loss, clips) in enumerate([(1.0, 1), (2.0, 3), (5.0, 4)], start=1):
        step(whole, number, loss, clips)
    first, second, saved = made(), made(), dict[str, Any]()
    step(first, 1, 1.0, 1)
    step(first, 2, 2.0, 3)
    first.on_save_checkpoint(None, module, saved)  # type: ignore[arg-type]
    second.on_load_checkpoint(None, module, saved)  # type: ignore[arg-type]
    trainer = SimpleNamespace(global_step=2, world_size=1, global_rank=0, is_global_zero=False)
    second.on_train_start(trainer, module)  # type: ignore[arg-type]
    step(second, 3, 5.0, 4)
    for row in rows:
        assert row["train/loss"] == pytest.approx((1 + 6 + 20) / 8)
        assert (row["seen/tokens"], row["seen/flops"]) == (80, 1 + 27 + 64)
    assert len(rows) == 2


def test_what_cannot_be_packed_is_one_line_at_the_start(randomised: Build) -> None:  # noqa: F811
    data, alone = (SimpleNamespace(shapes=SimpleNamespace(packed=packed)) for packed in (True, False))
    net = randomised("net.patch=[1,2,1]", "net.out_channels=3", "net.depth=1")
    good = module_of(net, objective())
    check_packed(good, data)
    wrong = {
        "recipe DistributionMatching takes no packed clips .data/shapes=packed.: data/shapes=buckets": distilled(),
        "TinyNet takes no packed clips": model(),
    }
    for words, module in wrong.items():
        with pytest.raises(ValueError, match=words):
            check_packed(module, data)
        check_packed(module, alone)
        check_packed(module, SimpleNamespace(shapes=None))
    ltx = randomised("net/position=fractional", "net.depth=1", "net.patch=[1,2,1]", "net.out_channels=3")
    places = module_of(ltx, objective())
    check_packed(places, data)
    places.signals = {**places.signals, "where": SimpleNamespace(entries={"coordinates": None})}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"cond\['coordinates'\] has a value for each place of a clip"):
        check_packed(places, data)


def test_a_budget_that_no_machine_has_is_one_line() -> None:
    sets = SimpleNamespace(most_pixels=10**15, budget=10**12)
    with pytest.raises(ValueError, match=r"a batch of data.shapes.tokens=1,000,000,000,000 tokens is .* of pixels"):
        check_batches(SimpleNamespace(shapes=object(), sets=sets))
    check_batches(SimpleNamespace(shapes=None))
    check_batches(SimpleNamespace(shapes=object(), sets=SimpleNamespace(most_pixels=10, budget=1)))
