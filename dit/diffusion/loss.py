"""The training objective, and the loss by noise level for validation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from dit.diffusion.conditioning import Conditioning
from dit.diffusion.denoiser import Denoiser, Network
from dit.diffusion.footage import Footage
from dit.diffusion.given import Showing, Shown, with_given
from dit.diffusion.levels import Group, Levels, moved
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction
from dit.diffusion.space import Space
from dit.diffusion.weighting import Weighting


class VideoNetwork(Protocol):
    """What the objective needs of a network (`dit.net.backbone.Backbone` in practice)."""

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor], /) -> Tensor: ...

    def num_tokens(self, frames: int, height: int, width: int, /) -> int: ...


class Noised(NamedTuple):
    """Clean latents and what was made of them.

    Attributes:
        x0, x_t, eps: clean latents, noisy latents and the noise, (B, C, F, H, W).
        t: noise level that the network is told, (B, F), or (B, 1) where the frames of a clip share it; of given frames
            0, that of their context noise, or what `given` says of them.
        given: frames that are given in place, and have no loss, bool (B, F).
        shown: what the network is shown of given frames.
    """

    x0: Tensor
    x_t: Tensor
    t: Tensor
    eps: Tensor
    given: Tensor
    shown: Shown

    @staticmethod
    def stacked(parts: "Sequence[Noised]") -> "Noised":
        """Several as one batch."""
        x0, x_t, t, eps, given = (torch.cat([getattr(part, name) for part in parts]) for name in Noised._fields[:5])
        return Noised(x0, x_t, t, eps, given, Shown.stacked([part.shown for part in parts]))


class LossOutput(NamedTuple):
    """The loss of a batch and what it is made of.

    Attributes:
        loss: mean of `per_sample`, 0-dim.
        per_sample: mean of `per_frame` over the frames that are not given, (B,); 0 where all are.
        per_frame: weighted squared error, mean over channels, height and width, (B, F); 0 where given.
        t: noise level of each frame, (B, F).
        given: which frames were given in place, bool (B, F).
    """

    loss: Tensor
    per_sample: Tensor
    per_frame: Tensor
    t: Tensor
    given: Tensor

    @staticmethod
    def joined(parts: "Sequence[LossOutput]") -> "LossOutput":
        """Those of several batches as one. Behind the end of a shorter clip frames count as given, and have no loss."""
        per_sample = torch.cat([part.per_sample for part in parts])
        longest = max(part.t.shape[1] for part in parts)
        fields = [
            torch.cat([pad(each, (0, longest - each.shape[1]), value=value) for each in column])
            for column, value in zip(list(zip(*parts, strict=True))[2:], (0, 0, True), strict=True)
        ]
        return LossOutput(per_sample.mean(), per_sample, *fields)


@dataclass(frozen=True)
class Objective:
    """Weighted squared error of what the network believes of noisy latents, where they are not given in place.

    Args:
        path: from data to noise.
        prediction: what the output of the network means.
        levels: which noise levels are trained.
        weighting: how much each of them counts.
        conditioning: which frames are given.
        space: in which quantity the error is taken.
        given: how the network is shown them.

    Raises ValueError for frames that cannot be shown so.
    """

    path: Path
    prediction: Prediction
    levels: Levels
    weighting: Weighting
    conditioning: Conditioning
    space: Space
    given: Showing

    def __post_init__(self) -> None:
        self.given.check(self.conditioning)

    def __call__(
        self,
        net: VideoNetwork,
        x0: Tensor | Sequence[Tensor],
        cond: dict[str, Tensor],
        generator: torch.Generator | None = None,
        footage: Footage | Sequence[Footage] | None = None,
    ) -> LossOutput:
        """The loss on clean latents x0 (B, C, F, H, W): noise, the network, compare.

        `cond` goes to the network with the given frames added (`with_given`; the dict itself is left alone). Validation
        passes a generator with a fixed seed, so that its losses can be compared. `footage`, the clips as pixels, is
        what frames are shown from that are given beside the clip.

        Of a packed batch x0 and `footage` are those of each group of clips of one shape, and `cond` has a row for each
        clip, group by group. All goes as for each clip alone, but that the network takes them as one sequence.
        """
        if isinstance(x0, Tensor):
            assert not isinstance(footage, Sequence)
            noised = self.noise(x0, net.num_tokens(*x0.shape[2:]), generator, footage)
            return self.compare(noised, self.output(net, noised, cond))
        assert not isinstance(footage, Footage)
        groups = self.noise_groups(x0, [net.num_tokens(*each.shape[2:]) for each in x0], generator, footage)
        made = zip(groups, self.outputs(net, groups, cond), strict=True)
        return LossOutput.joined([self.compare(noised, out) for noised, out in made])

    def at(self, step: int) -> "Objective":
        """The objective of a step of training."""
        levels = self.levels.at(step)
        return self if levels is self.levels else replace(self, levels=levels)

    def noise(
        self,
        x0: Tensor,
        num_tokens: int,
        generator: torch.Generator | None = None,
        footage: Footage | None = None,
    ) -> Noised:
        """Clean latents x0 (B, C, F, H, W), `num_tokens` tokens a clip, on their way to the network.

        All random numbers come from `generator`; for None, levels and given frames from the CPU's global one, noise
        from that of x0's device.
        """
        batch, _, frames, _, _ = x0.shape
        shown = self.given.draw(self.conditioning, x0, footage, generator)
        t = self.levels(batch, frames, num_tokens, generator, x0.device)
        return self._mixed(x0, t, shown, generator)

    def noise_groups(
        self,
        x0: Sequence[Tensor],
        num_tokens: Sequence[int],
        generator: torch.Generator | None = None,
        footage: Sequence[Footage] | None = None,
    ) -> list[Noised]:
        """The same for the groups of a packed batch, (n, C, F, H, W) each. Levels are drawn for all clips together, in
        each group's own number of frames and tokens."""
        shown = [
            self.given.draw(self.conditioning, each, own, generator)
            for each, own in zip(x0, footage or repeat(None, len(x0)), strict=True)
        ]
        groups = [Group(len(each), each.shape[2], tokens) for each, tokens in zip(x0, num_tokens, strict=True)]
        t = self.levels.of_groups(groups, generator, x0[0].device)
        return [self._mixed(*each, generator) for each in zip(x0, t, shown, strict=True)]

    def _mixed(self, x0: Tensor, t: Tensor, shown: Shown, generator: torch.Generator | None) -> Noised:
        t = self.given.levels(self.conditioning, t, shown, generator)
        eps = noise_like(x0, generator)
        x_t = self.path.mix(x0, eps, t)
        x_t = self.given.noised(self.path, self.prediction, shown, x_t, t, eps, generator)
        return Noised(x0, x_t, t, eps, self.given.held(shown), shown)

    def output(self, net: Network, noised: Noised, cond: dict[str, Tensor]) -> Tensor:
        """The raw output (B, C, F, H, W) of a network for noised latents, `cond` and the given frames."""
        cond = with_given(cond, net, noised.shown)
        return Denoiser(net, self.path, self.prediction).output(noised.x_t, noised.t, cond)

    def outputs(self, net: Network, groups: Sequence[Noised], cond: dict[str, Tensor]) -> list[Tensor]:
        """The same for the groups of a packed batch, which the network takes as one sequence."""
        channels = [with_given({}, net, noised.shown) for noised in groups]
        denoiser = Denoiser(net, self.path, self.prediction)
        return denoiser.outputs([noised.x_t for noised in groups], [noised.t for noised in groups], cond, channels)

    def compare(self, noised: Noised, out: Tensor) -> LossOutput:
        """The loss of a raw output (B, C, F, H, W)."""
        x0, x_t, t, eps, given, _ = noised
        # The target goes through the same arithmetic as the output, floors included, so errors stay proportional.
        target = self.prediction.target(self.path, x0, eps, t)
        believed, truth = (self.space.value(self.path, self.prediction, y, x_t, t) for y in (out, target))
        weight = self.weighting.in_space(self.space, self.path, self.prediction, t)

        # Given frames are masked before the product: the weight may be infinite at their level 0, and its product with
        # a zero gradient, from a mask after it, would be NaN.
        away = torch.where(given[:, None, :, None, None], 0, believed - truth)
        per_frame = torch.where(given, 0, weight) * away.square().mean(dim=(1, 3, 4))
        per_sample = per_frame.sum(dim=1) / (~given).sum(dim=1).clamp(min=1)
        return LossOutput(per_sample.mean(), per_sample, per_frame, t.expand(given.shape), given)


def noise_like(x0: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gaussian noise in the shape, dtype and place of x0, drawn where the generator lives (for None, where x0 does)."""
    device = x0.device if generator is None else generator.device
    return moved(torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=device), x0.device)


class LevelLoss(NamedTuple):
    """Sums over buckets of the noise level: add them over batches and devices, then take the mean."""

    total: Tensor
    frames: Tensor

    def mean(self) -> Tensor:
        """Mean loss in each bucket, (num_buckets,); NaN where no frame fell."""
        return self.total / self.frames


def loss_by_level(output: LossOutput, num_buckets: int) -> LevelLoss:
    """The loss of the frames not given, summed in equal buckets of t from 0 to 1: `total`, `frames` (num_buckets,).

    The mean loss hides at which levels a network learns (Esser et al. 2024, arXiv:2403.03206, section 5.1, validate
    by level too). For numbers that compare across runs: `errors.py`.
    """
    bucket = (output.t * num_buckets).long().clamp(max=num_buckets - 1)
    member = (bucket[..., None] == torch.arange(num_buckets, device=bucket.device)) & ~output.given[..., None]
    total = torch.where(member, output.per_frame.detach()[..., None], 0).sum(dim=(0, 1))
    return LevelLoss(total, member.sum(dim=(0, 1)))
