"""Two networks that share the noise levels: one for noisy clips, one for nearly clean ones (Wan 2.2's two experts).

The choice is made where the level is known, in `Denoiser`. Guidance, solvers and given frames see one network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

NOWHERE = torch.device("meta")
# What a sampler asks of a network: the two must agree on it.
SHARED = ("in_channels", "out_channels", "patch", "concat_channels", "num_classes", "reads")


class ByLevel(nn.Module):
    """`high` at noise levels of at least `boundary`, `low` below it.

    The level of a sample is that of the frames that are made; given frames do not count. Samples of one batch may lie
    on both sides: each goes through its own network. A sample whose frames lie on both sides is refused, since neither
    network was trained for it. Asking for the side makes the host wait for the device once a call.

    Args:
        high, low: networks of one shape: equal `in_channels`, `out_channels`, `patch`, `concat_channels`, `num_classes`
            and `reads`.
        boundary: noise level t in [0, 1] (diffusers' `boundary_ratio`).

    Attributes:
        one_at_a_time: while one network computes the other one waits on the CPU.
        read: gives a network its weights, which may be on the meta device, without values, until it is first asked;
            None: both have them. With it a network that waits lets go of them where the CPU is what computes.

    Raises ValueError for a boundary outside [0, 1] and for networks that differ in shape.
    """

    def __init__(self, high: nn.Module, low: nn.Module, boundary: float) -> None:
        super().__init__()
        if not 0 <= boundary <= 1:
            raise ValueError(f"boundary={boundary} between two networks is a noise level, from 0 to 1")
        for name in SHARED:
            a, b = getattr(high, name, None), getattr(low, name, None)
            if a != b:
                raise ValueError(f"the networks on both sides of the boundary differ: {name} is {a} and {b}")
        self.high, self.low, self.boundary = high, low, boundary
        self.one_at_a_time = False
        self.read: Callable[[nn.Module], None] | None = None
        self.register_buffer("_home", torch.empty(0), persistent=False)  # follows `to`, wherever the networks wait

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        home: Any = self._home
        return home.device

    @property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The two, that of the high levels first."""
        return self.high, self.low

    def take_turns(self, device: torch.device) -> ByLevel:
        """Computes on `device` from now on, where one network is at a time. Returns itself; moves nothing yet."""
        self.one_at_a_time = True
        return self.at_home(device)

    def at_home(self, device: torch.device) -> ByLevel:
        """Computes on `device` from now on. Returns itself; a network moves when it is asked."""
        self._home = torch.empty(0, device=device)
        return self

    def on_latents(self, compression: Any) -> None:
        """Tells both networks which pixels the latents stand for (`Backbone.on_latents`)."""
        for net in (self.high, self.low):
            if (on_latents := getattr(net, "on_latents", None)) is not None:
                on_latents(compression)

    def choose(self, t: Tensor, cond: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]:
        """What to call at noise levels t (B, 1) or (B, F).

        cond: its `given` (B, 1, F, H, W) says which frames do not count.

        Raises ValueError where frames of one sample lie on both sides.
        """
        sides = self._sides(t, cond.get("given"))
        if all(sides) or not any(sides):
            return self._ready(sides[0])

        def each(x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            order, made = [], []
            for side in (True, False):
                rows = torch.tensor([row for row, own in enumerate(sides) if own == side], device=x.device)
                made.append(self._ready(side)(x[rows], t[rows], {key: value[rows] for key, value in cond.items()}))
                order.append(rows)
            return torch.cat(made)[torch.cat(order).argsort()]

        return each

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """As either network. t must be the noise level itself, which it is but for `prediction=edm`."""
        return self.choose(t, cond)(x, t, cond)

    def check_levels(self, levels: Tensor, known: Tensor) -> None:
        """Raises ValueError for levels (rows, F) that some row has on both sides. known: bool (F,), given frames."""
        made = levels[:, ~known]
        split = (made.amax(1) >= self.boundary) & (made.amin(1) < self.boundary)
        if bool(split.any()):
            self._refuse(*made[split][0].aminmax())

    def _sides(self, t: Tensor, given: Tensor | None) -> list[bool]:
        """Of each sample, whether it is the high-noise network's."""
        if t.shape[1] == 1:
            return (t[:, 0] >= self.boundary).tolist()
        known = torch.zeros_like(t, dtype=torch.bool) if given is None else given.flatten(3).amin(-1)[:, 0] > 0
        highest, lowest = t.masked_fill(known, 0).amax(1), t.masked_fill(known, 1).amin(1)
        # In the dtype of t: 0.9 in float32 is below 0.9.
        high, low = torch.stack([highest >= self.boundary, lowest < self.boundary]).tolist()
        for row, (above, below) in enumerate(zip(high, low, strict=True)):
            if above and below:
                self._refuse(lowest[row], highest[row])
        return high

    def _refuse(self, lowest: Any, highest: Any) -> None:
        raise ValueError(
            f"frames of one clip have noise levels from {float(lowest):.3g} to {float(highest):.3g}, on both sides of"
            f" the boundary {self.boundary:g} between two networks: sample with one level for all frames"
            " (schedule=shifted)"
        )

    def _ready(self, high: bool) -> nn.Module:
        """The network of a side, on the device."""
        wanted, other = (self.high, self.low) if high else (self.low, self.high)
        rest = torch.device("meta" if self.read is not None and self.device.type == "cpu" else "cpu")
        if self.one_at_a_time and _where(other) not in (None, NOWHERE, rest):
            other.to(rest)
        if _where(wanted) not in (None, self.device):
            if _where(wanted) == NOWHERE and self.read is not None:
                self.read(wanted)
            wanted.to(self.device)
            name, size = "high" if high else "low", sum(p.numel() * p.element_size() for p in wanted.parameters())
            log.info("the %s-noise network is on %s now, %.3g GB", name, self.device, size / 1e9)
        return wanted

    # What a sampler asks of a network.

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        network: Any = self.high
        return network.num_tokens(frames, height, width)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.high, name) if name in SHARED else super().__getattr__(name)

    @contextmanager
    def skipping(self, blocks: Collection[int]) -> Iterator[None]:
        """Within: both networks are without these blocks, counted from 0."""
        networks: list[Any] = [self.high, self.low]
        with networks[0].skipping(blocks), networks[1].skipping(blocks):
            yield

    def text_reuse(self) -> AbstractContextManager[None]:
        """Those of both networks, of which each makes only what it needs."""
        networks: list[Any] = [self.high, self.low]
        return Together([network.text_reuse() for network in networks if hasattr(network, "text_reuse")])


class Together(AbstractContextManager[None]):
    """Several contexts as one, which can be entered again and again if they can."""

    def __init__(self, parts: Sequence[AbstractContextManager[None]]) -> None:
        self.parts = parts

    def __enter__(self) -> None:
        for part in self.parts:
            part.__enter__()

    def __exit__(self, *error: Any) -> None:
        for part in reversed(self.parts):
            part.__exit__(*error)


def _where(network: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in network.parameters()), None)
