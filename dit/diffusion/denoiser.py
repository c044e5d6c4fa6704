"""The one place where network, path and prediction meet; the loss and the sampler both go through it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dit.diffusion.experts import ByLevel
from dit.diffusion.path import Path
from dit.diffusion.prediction import Estimate, Prediction

Network = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Denoiser:
    """A network's estimate of a noisy video: `denoiser(x_t, t, cond) -> Estimate(x0, eps, velocity)`.

    Of two networks that share the levels (`experts.ByLevel`) the one for level t is taken.
    """

    net: Network
    path: Path
    prediction: Prediction

    def output(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The network's raw output (B, C, F, H, W) for x_t (B, C, F, H, W) at levels t (B, F) or (B, 1).

        Networks that learnt a variance too (DiT, Latte) put it out behind these C channels; nothing here reads it.
        """
        net = self.net.choose(t, cond) if isinstance(self.net, ByLevel) else self.net
        x_in, t_in = self.prediction.network_input(self.path, x_t, t)
        return net(x_in, t_in, cond)[:, : x_t.shape[1]]

    def outputs(
        self,
        x_t: Sequence[Tensor],
        t: Sequence[Tensor],
        cond: Mapping[str, Tensor],
        channels: Sequence[Mapping[str, Tensor]],
    ) -> list[Tensor]:
        """The same for groups of clips of one shape that the network takes as one sequence (`Backbone.of_groups`)."""
        given = [self.prediction.network_input(self.path, x, levels) for x, levels in zip(x_t, t, strict=True)]
        net: Any = self.net
        made = net.of_groups([x for x, _ in given], [levels for _, levels in given], cond, channels)
        return [out[:, : x.shape[1]] for out, x in zip(made, x_t, strict=True)]

    def __call__(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Estimate:
        """Raw output turned into (x0, eps, velocity), each (B, C, F, H, W)."""
        return self.prediction.estimate(self.path, self.output(x_t, t, cond), x_t, t)
