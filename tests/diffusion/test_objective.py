"""The objective against a plain re-computation with loops, and what given frames may and may not do."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from diffusion_parts import TinyNet, random_path, random_prediction
from torch import Tensor

from dit.diffusion import space as spaces
from dit.diffusion.conditioning import Conditioning, FirstFrame, NoFrame, RandomSubset, RandomTasks, Unconditional
from dit.diffusion.given import HELD
from dit.diffusion.levels import Levels, LogitNormal, PerFrame, Stratified, Uniform
from dit.diffusion.loss import LossOutput, Objective, loss_by_level
from dit.diffusion.path import Linear, Path
from dit.diffusion.prediction import X0, Flow, Prediction
from dit.diffusion.weighting import EDM, MinSNR, Sigmoid
from dit.diffusion.weighting import Uniform as UniformWeighting

SHAPE = (3, 3, 4, 5, 6)


@dataclass
class Fixed(Levels):
    t: Tensor

    def __call__(self, batch, frames, num_tokens, generator, device) -> Tensor:
        return self.t


@dataclass
class Given(Conditioning):
    given: Tensor
    context: float = 0.0

    def __call__(self, batch, frames, generator, device) -> Tensor:
        return self.given

    def frame_levels(self, t, given, generator) -> Tensor:
        return torch.where(given, self.context, t)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clean() -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64)


def some_given() -> Tensor:
    """At least one frame given and one not given in each sample, different numbers of them."""
    return torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)


def tasks(context_noise: float = 0.0) -> RandomTasks:
    patterns = {"none": NoFrame(), "first": FirstFrame(), "any": RandomSubset()}
    return RandomTasks(patterns, dict.fromkeys(patterns, 1), context_noise)


def objective(**parts) -> Objective:
    standard = Objective(Linear(), Flow(), Uniform(), UniformWeighting(), Unconditional(), spaces.Velocity(), HELD)
    return replace(standard, **parts)


def by_hand(
    path: Path, prediction: Prediction, space: str, weight: Callable[[float], float], net, x0, t, given, eps
) -> tuple[float, list[float], list[list[float]]]:
    """Sample by sample, frame by frame, with scalars for alpha and sigma; the weight is in the compared space."""
    batch, _, frames = x0.shape[:3]
    x_t = x0.clone()
    for b in range(batch):
        for f in range(frames):
            if given[b, f]:
                t[b, f] = 0
            else:
                x_t[b, :, f] = path.alpha(t[b, f]) * x0[b, :, f] + path.sigma(t[b, f]) * eps[b, :, f]
    mask = given.double()[:, None, :, None, None].expand(batch, 1, frames, *x0.shape[3:])
    x_in, t_in = prediction.network_input(path, x_t, t)
    out = net(x_in, t_in, {"given": mask})
    estimate = prediction.estimate(path, out, x_t, t)
    per_frame = [[0.0] * frames for _ in range(batch)]
    for b in range(batch):
        for f in range(frames):
            if given[b, f]:
                continue
            level = t[b, f]
            truth = {
                "X0": (estimate.x0, x0),
                "Eps": (estimate.eps, eps),
                "Velocity": (estimate.velocity, path.alpha_dot(level) * x0 + path.sigma_dot(level) * eps),
                "Output": (out, prediction.target(path, x0, eps, level)),
            }[space]
            difference = truth[0][b, :, f] - truth[1][b, :, f]
            per_frame[b][f] = weight(level.item()) * (difference**2).sum().item() / difference.numel()
    per_sample = [sum(row) / sum(not g for g in given[b].tolist()) for b, row in enumerate(per_frame)]
    return sum(per_sample) / batch, per_sample, per_frame


@pytest.mark.parametrize("space", ["X0", "Eps", "Velocity", "Output"])
def test_equals_a_plain_recomputation(path: Path, prediction: Prediction, space: str, net: TinyNet) -> None:
    x0, given = clean(), some_given()
    t = torch.rand(3, 4, dtype=torch.float64) * 0.8 + 0.1
    compared = getattr(spaces, space)()
    weighting = Sigmoid(0.5)

    def weight(level: float) -> float:
        at = torch.tensor([[level]], dtype=torch.float64)
        return weighting.in_space(compared, path, prediction, at).item()

    whole = Objective(path, prediction, Fixed(t.clone()), weighting, Given(given), compared, HELD)
    output = whole(net, x0, {}, generator(3))
    eps = torch.randn(SHAPE, dtype=torch.float64, generator=generator(3))
    loss, per_sample, per_frame = by_hand(path, prediction, space, weight, net, x0, t.clone(), given, eps)
    assert output.loss.item() == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(output.per_sample, torch.tensor(per_sample, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(output.per_frame, torch.tensor(per_frame, dtype=torch.float64), rtol=1e-6, atol=1e-12)
    assert torch.equal(output.given, given) and (output.t[given] == 0).all()

    doubled, *_ = by_hand(path, prediction, space, lambda l: 1.01 * weight(l), net, x0, t.clone(), given, eps)
    assert output.loss.item() != pytest.approx(doubled, rel=1e-6)


@pytest.mark.parametrize("levels", [LogitNormal(0.3, 1.0), PerFrame(Uniform())], ids=["shared", "per frame"])
@pytest.mark.parametrize("conditioning", [Unconditional(), tasks(), tasks(0.2)], ids=["none", "tasks", "context noise"])
def test_the_halves_are_the_whole_bit_for_bit(
    path: Path, prediction: Prediction, net: TinyNet, levels: Levels, conditioning: Conditioning
) -> None:
    """The loss in one stretch, as runs were trained before it had halves: same random numbers, same arithmetic."""
    x0, cond = torch.randn(SHAPE), {"text": torch.randn(3, 2)}
    whole = Objective(path, prediction, levels, Sigmoid(0.5), conditioning, spaces.Velocity(), HELD)
    net = net.float()

    draw = generator(7)
    batch, _, frames, height, width = x0.shape
    given = conditioning(batch, frames, draw, x0.device)
    t = levels(batch, frames, net.num_tokens(frames, height, width), draw, x0.device)
    t = conditioning.frame_levels(t, given, draw)
    eps = torch.randn(x0.shape, generator=draw)
    x_t = path.mix(x0, eps, t)
    mask = given[:, None, :, None, None]
    out = net(*prediction.network_input(path, x_t, t), {**cond, "given": mask.float().expand(batch, 1, *x0.shape[2:])})
    truth = prediction.estimate(path, prediction.target(path, x0, eps, t), x_t, t).velocity
    away = torch.where(mask, 0, prediction.estimate(path, out, x_t, t).velocity - truth)
    weight = whole.weighting.in_space(whole.space, path, prediction, t)
    per_frame = torch.where(given, 0, weight) * away.square().mean(dim=(1, 3, 4))
    per_sample = per_frame.sum(dim=1) / (~given).sum(dim=1).clamp(min=1)

    noised = whole.noise(x0, net.num_tokens(frames, height, width), generator(7))
    for made, wanted in zip(noised[:-1], (x0, x_t, t, eps, given), strict=True):
        assert torch.equal(made, wanted)
    halves = whole.compare(noised, whole.output(net, noised, cond))
    called = whole(net, x0, cond, generator(7))
    for output in (halves, called):
        wanted = LossOutput(per_sample.mean(), per_sample, per_frame, t.expand(batch, frames), given)
        assert all(torch.equal(mine, one) for mine, one in zip(output, wanted, strict=True))
    assert "given" not in cond


@pytest.mark.parametrize("weighting", [MinSNR(5.0), Sigmoid(0.0), EDM(0.6)], ids=lambda w: type(w).__name__)
def test_the_compared_space_does_not_change_a_weighting(path: Path, prediction, weighting, net: TinyNet) -> None:
    x0, t = clean(), torch.rand(3, 4, dtype=torch.float64) * 0.8 + 0.1
    compared = (spaces.X0(), spaces.Eps(), spaces.Velocity(), spaces.Output())
    parts = path, prediction, Fixed(t), weighting, Given(some_given())
    losses = [Objective(*parts, space, HELD)(net, x0, {}, generator()).loss for space in compared]
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(4), rtol=1e-6, atol=0)


def test_the_right_output_has_no_loss(path: Path, prediction: Prediction) -> None:
    """A network that knows the answer, at levels up to both ends: floors cancel, so the loss is 0 there too."""
    x0 = clean()
    t = torch.tensor([[0.0, 1e-6, 0.3, 1.0]] * 3, dtype=torch.float64)
    eps = torch.randn(SHAPE, dtype=torch.float64, generator=generator(1))

    class Oracle(TinyNet):
        def forward(self, x, level, cond):
            return prediction.target(path, x0, eps, t) + self.offset

    oracle = Oracle(3)
    for space in (spaces.X0(), spaces.Eps(), spaces.Velocity(), spaces.Output()):
        whole = Objective(path, prediction, Fixed(t), UniformWeighting(), Unconditional(), space, HELD)
        oracle.offset = 0.0
        assert whole(oracle, x0, {}, generator(1)).loss.item() == pytest.approx(0, abs=1e-18)
        oracle.offset = 0.1
        assert whole(oracle, x0, {}, generator(1)).loss.item() > 1e-7


def test_given_frames_enter_clean_and_marked(path: Path, net: TinyNet) -> None:
    x0, given = clean(), some_given()
    cond = {"text": torch.randn(3, 2)}
    whole = objective(path=path, levels=Fixed(torch.rand(3, 1) * 0.5 + 0.5), conditioning=Given(given))
    output = whole(net, x0, cond, generator())
    (x, t, seen) = net.seen[0]
    mask = given[:, None, :, None, None].expand(SHAPE)
    assert torch.equal(x[mask], x0[mask])
    assert not (x[~mask] == x0[~mask]).any(), "a frame that is not given came in clean"
    assert (t[given] == 0).all() and (t[~given] >= 0.5).all() and torch.equal(output.t, t)
    assert seen["given"].shape == (3, 1, 4, 5, 6) and seen["given"].dtype == x0.dtype
    assert torch.equal(seen["given"][:, 0, :, 2, 3].bool(), given)
    assert seen["text"] is cond["text"] and set(cond) == {"text"}, "the caller's dict was changed"


def test_context_noise_reaches_the_state_and_the_level(net: TinyNet) -> None:
    x0, given = clean(), some_given()
    whole = objective(levels=Fixed(torch.rand(3, 1)), conditioning=Given(given, context=0.1))
    output = whole(net, x0, {}, generator(2))
    (x, t, _) = net.seen[0]
    eps = torch.randn(SHAPE, dtype=torch.float64, generator=generator(2))
    mask = given[:, None, :, None, None].expand(SHAPE)
    torch.testing.assert_close(x[mask], (0.9 * x0 + 0.1 * eps)[mask], rtol=1e-6, atol=1e-6)
    assert (t[given] == 0.1).all() and (output.per_frame[given] == 0).all() and (output.per_frame[~given] > 0).all()


class Peeking(TinyNet):
    """Says something absurd of given frames: `absurd` is added to its output there."""

    absurd = 0.0

    def forward(self, x, t, cond):
        self.out = super().forward(x, t, cond) + self.absurd * cond["given"]
        self.out.retain_grad()
        return self.out


def test_given_frames_have_no_loss_and_no_gradient(path: Path, prediction: Prediction) -> None:
    x0, given = clean(), some_given()
    net = Peeking(3).double()
    whole = objective(path=path, prediction=prediction, levels=Fixed(torch.rand(3, 1)), conditioning=Given(given))
    losses = []
    for net.absurd in (0.0, 1e4):
        output = whole(net, x0, {}, generator())
        output.loss.backward()
        losses.append(output.loss.item())
        assert (output.per_frame[given] == 0).all() and (output.per_frame[~given] > 0).all()
        mask = given[:, None, :, None, None].expand(SHAPE)
        assert (net.out.grad[mask] == 0).all() and (net.out.grad[~mask] != 0).all()
    assert losses[0] == losses[1]
    unmarked = replace(whole, conditioning=Unconditional(), levels=Fixed(output.t))
    assert (unmarked(net, x0, {}, generator()).per_frame[given] > 0).all(), "without `given` these frames do count"


def test_many_given_frames_do_not_shrink_a_sample_s_loss() -> None:
    """A network whose error is 1 everywhere has loss 1 in every sample, however many of its frames are given."""
    given = some_given()

    class OffByOne(TinyNet):
        def forward(self, x, t, cond):
            return eps - x0 + 1

    x0, eps = clean(), torch.randn(SHAPE, dtype=torch.float64, generator=generator(4))
    output = objective(levels=Fixed(torch.rand(3, 1)), conditioning=Given(given))(OffByOne(3), x0, {}, generator(4))
    torch.testing.assert_close(output.per_sample, torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(output.per_frame, (~given).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("at_zero", [float("inf"), float("nan")])
def test_a_weight_without_bound_at_level_0_does_not_reach_gradients_through_given_frames(at_zero: float) -> None:
    """The weight of an integral over log-SNR, 1 / t, and one that is 0 / 0 there."""

    class Unbounded(UniformWeighting):
        def __call__(self, path: Path, t: Tensor) -> Tensor:
            return torch.where(t > 0, 1 / t, at_zero)

    class Bounded(UniformWeighting):
        def __call__(self, path: Path, t: Tensor) -> Tensor:
            return 1 / t.clamp(min=0.01)

    x0, found = clean(), []
    for weighting in (Unbounded(), Bounded()):
        net = FromInput()
        whole = objective(weighting=weighting, levels=Fixed(torch.full((3, 1), 0.3)), conditioning=Given(some_given()))
        output = whole(net, x0, {}, generator())
        output.loss.backward()
        assert all(part.isfinite().all() for part in output)
        found.append((output.loss, net.scale.grad))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1]) and found[0][1].isfinite()


def test_a_clip_with_every_frame_given_counts_nothing() -> None:
    given = torch.tensor([[True] * 4, [False] * 4, [True, False, False, False]])
    net = FromInput()
    output = objective(conditioning=Given(given))(net, clean(), {}, generator())
    output.loss.backward()
    assert output.per_sample[0] == 0 and (output.per_sample[1:] > 0).all() and net.scale.grad.isfinite()


class FromInput(TinyNet):
    """An output that depends on the noisy clip and on one parameter, as all frames of a network do."""

    def __init__(self) -> None:
        super().__init__(3)
        self.scale = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.scale * x


def test_levels_shared_by_all_frames_reach_the_network_as_one(net: TinyNet) -> None:
    shapes = []
    for levels, conditioning in ((Uniform(), Unconditional()), (PerFrame(Uniform()), Unconditional())):
        output = objective(levels=levels, conditioning=conditioning)(net, clean(), {}, generator())
        shapes.append(tuple(net.seen[-1][1].shape))
        assert output.t.shape == (3, 4)
    objective(conditioning=tasks())(net, clean(), {}, generator())
    shapes.append(tuple(net.seen[-1][1].shape))
    assert shapes == [(3, 1), (3, 4), (3, 4)]


def test_one_generator_decides_everything(net: TinyNet) -> None:
    x0 = clean()
    whole = objective(levels=Stratified(LogitNormal(0.5, 1.0)), conditioning=tasks(0.1))
    state = torch.get_rng_state()
    first, again, other = (whole(net, x0, {}, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state()), "the global generator was touched"
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.loss != other.loss
    torch.manual_seed(9)
    unseeded = whole(net, x0, {}).loss
    torch.manual_seed(9)
    assert torch.equal(unseeded, whole(net, x0, {}).loss)


def test_tokens_are_counted_by_the_network() -> None:
    """The number of tokens decides the shift of levels, and only the network knows its patches."""
    asked = []

    class Asking(Uniform):
        def from_uniform(self, u, num_tokens):
            asked.append(num_tokens)
            return u

    objective(levels=Asking())(TinyNet(3).double(), clean(), {}, generator())
    assert asked == [4 * 5 * 6]


@pytest.mark.parametrize("trial", range(20))
def test_float32_training_stays_finite(trial: int) -> None:
    """Random choices of everything, with frames given and levels from end to end: loss and gradients are finite."""
    rng = random.Random(trial)
    whole = Objective(
        random_path(rng.choice(["linear", "cosine", "vp", "ve"]), rng),
        random_prediction(rng.choice(["eps", "x0", "v", "flow", "flow_to_data", "edm"]), rng),
        rng.choice([Uniform(), PerFrame(LogitNormal(2.0, 3.0)), Fixed(torch.tensor([[0.0], [1.0], [0.5]]))]),
        rng.choice([UniformWeighting(), MinSNR(5.0), Sigmoid(1.0), EDM(0.5)]),
        rng.choice([Unconditional(), tasks(0.1)]),
        rng.choice([spaces.X0(), spaces.Eps(), spaces.Velocity(), spaces.Output()]),
        HELD,
    )
    net = TinyNet(3)
    output = whole(net, clean().float(), {}, generator(trial))
    output.loss.backward()
    assert all(part.isfinite().all() for part in output) and output.loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in net.parameters())


def test_training_learns_a_gaussian() -> None:
    """The best x0 given x_t of N(0, s^2) data is a known multiple of x_t; descent on the objective finds it."""
    s, level = 0.6, 0.4
    factor = torch.nn.Parameter(torch.zeros(()))

    class Scale(TinyNet):
        def forward(self, x, t, cond):
            return factor * x

    whole = objective(prediction=X0(0.001), levels=Fixed(torch.full((32, 1), level)))
    for step in range(40):
        loss = whole(Scale(3), s * torch.randn(32, 3, 2, 4, 4), {}, generator(step)).loss
        (gradient,) = torch.autograd.grad(loss, factor)
        factor.data -= 0.1 * gradient
    alpha, sigma = 1 - level, level
    assert factor.item() == pytest.approx(alpha * s**2 / (alpha**2 * s**2 + sigma**2), abs=0.02)


def output_of(t: Tensor, per_frame: Tensor, given: Tensor) -> LossOutput:
    return LossOutput(per_frame.mean(), per_frame.mean(1), per_frame, t, given)


def test_loss_by_level() -> None:
    t = torch.tensor([[0.0, 0.24, 0.26], [0.74, 0.99, 1.0]])
    given = torch.tensor([[True, False, False], [False, False, False]])
    per_frame = torch.tensor([[0.0, 2.0, 3.0], [5.0, 7.0, 9.0]], requires_grad=True)
    levels = loss_by_level(output_of(t, per_frame, given), num_buckets=4)
    assert levels.total.tolist() == [2, 3, 5, 16] and levels.frames.tolist() == [1, 1, 1, 2]
    assert levels.mean().tolist() == [2, 3, 5, 8] and not levels.total.requires_grad
    counted = loss_by_level(output_of(t, per_frame, torch.zeros_like(given)), num_buckets=4)
    assert counted.frames.tolist() == [2, 1, 1, 2], "a given frame that is counted must be seen"
    assert loss_by_level(output_of(t, per_frame, given), num_buckets=50).mean().isnan().any()


def test_loss_by_level_adds_up_over_batches(net: TinyNet) -> None:
    validation = objective(levels=Stratified(Uniform()), conditioning=tasks())
    first, second = (validation(net, clean(), {}, generator(seed)) for seed in (0, 1))
    both = LossOutput(first.loss, *(torch.cat(pair) for pair in zip(first[1:], second[1:], strict=True)))
    parts = [loss_by_level(output, 5) for output in (first, second)]
    whole = loss_by_level(both, 5)
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
    assert torch.equal(parts[0].frames + parts[1].frames, whole.frames)
