"""How a network is shown given frames: held in the clip itself or beside it, and the entries of `cond` that say it.

A model was trained in one of these ways, so the way is a part of it (`given` of the config). The objective and the
sampler both ask it, and both fill `cond` by `with_given`: training shows what sampling shows. Given frames are no
signals (`dit/signals`): they are made of latents and of the task, anew for every chunk of a long clip, and neither
caption dropout nor guidance leaves them out. The entries:

- `given` (B, 1, F, H, W): 1 where known. For every network.
- `given_latents` (B, C, F, H, W): the clean latents where known, elsewhere 0 (CogVideoX, HunyuanVideo), or latents of
  the clip with grey frames in the place of unknown ones (Wan, SkyReels-V2).
- `given_frames` (B, n, F, H, W): the mask of pixel frames, n of which make a latent frame, folded into channels (Wan,
  SkyReels-V2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dit.config.limits import Natural, NonNegative, Positive, Share
from dit.diffusion.conditioning import Conditioning
from dit.diffusion.footage import Compression, Footage, Unknown, folded
from dit.diffusion.levels import moved, uniform
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction

KEYS = ("given", "given_latents", "given_frames")


class Shown(NamedTuple):
    """What a network is shown of given frames.

    Attributes:
        latents: (B, C, F, H, W), clean.
        known: bool (B, s, F, H or 1, W or 1): what is given, in each of the s pixel frames that a latent frame stands
            for; s = 1 where latent frames are given as a whole.
        whole: whether latents of unknown frames are shown as they are; otherwise 0 stands there.
    """

    latents: Tensor
    known: Tensor
    whole: bool = False

    @property
    def mask(self) -> Tensor:
        """bool (B, 1, F, H or 1, W or 1): latents of which some pixel frame is known."""
        return self.known if self.known.shape[1] == 1 else self.known.any(1, keepdim=True)

    def repeated(self, count: int) -> Shown:
        """Each clip `count` times."""
        latents, known = (part.repeat_interleave(count, dim=0) for part in (self.latents, self.known))
        return Shown(latents, known, self.whole)

    @staticmethod
    def stacked(parts: Sequence[Shown]) -> Shown:
        """Several as one batch."""
        latents, known = (torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "known"))
        return Shown(latents, known, parts[0].whole)


def nothing(latents: Tensor) -> Shown:
    """No frame of clips of this shape (B, C, F, H, W) is given."""
    return Shown(latents, torch.zeros(1, 1, 1, 1, 1, dtype=torch.bool, device=latents.device))


def with_given(cond: Mapping[str, Tensor], net: Any, shown: Shown) -> dict[str, Tensor]:
    """`cond` with what `net` reads of given frames (the dict itself is left alone).

    net: says what it reads beside the mask by `concat_channels`, name -> channels; without it, nothing.
    """
    latents, mask = shown.latents, shown.mask
    batch, _, *grid = latents.shape
    more = {**cond, "given": mask.to(latents.dtype).expand(batch, 1, *grid)}
    wanted: Mapping[str, int] = getattr(net, "concat_channels", {})
    if "given_latents" in wanted:
        more["given_latents"] = latents if shown.whole else torch.where(mask, latents, 0)
    if "given_frames" in wanted:
        count, there = wanted["given_frames"], shown.known.shape[1]
        frames = [channel * there // count for channel in range(count)]  # the same, where the codec is the network's
        more["given_frames"] = shown.known[:, frames].to(latents.dtype).expand(batch, count, *grid)
    return more


class Showing(ABC):
    """How a network is shown given frames.

    Attributes:
        in_place: whether they stand in the clip that is denoised.
        unknown: what stands in the other frames while they are encoded (`encode_known`).
        in_start: share of the first given latent frame in the noise of all frames with which sampling begins
            (HunyuanVideo: 0.001).
    """

    in_place: ClassVar[bool]
    unknown: Unknown
    in_start: float

    @property
    def cut(self) -> int:
        """Latent frames that are cut off the front of a finished clip."""
        return 0

    def seen(self, shown: Shown) -> Shown:
        """The same in the units in which the network is shown it."""
        return shown

    def on_given(self, noise: Callable[[], Tensor], level: Tensor) -> Tensor | None:
        """What the sampler adds to given frames where it asks the network: of fresh unit noise, which `noise` draws, at
        the `level` of the other frames; None: nothing."""
        return None

    def check(self, conditioning: Conditioning) -> None:  # noqa: B027 most go with any
        """Raises ValueError, in one line, for a `conditioning` that cannot be shown so."""

    @abstractmethod
    def draw(
        self, conditioning: Conditioning, x0: Tensor, footage: Footage | None, generator: torch.Generator | None
    ) -> Shown:
        """What training shows of clips, whose latents are x0 (B, C, F, H, W), drawn by `conditioning`."""

    @abstractmethod
    def levels(self, conditioning: Conditioning, t: Tensor, shown: Shown, generator: torch.Generator | None) -> Tensor:
        """Levels t (B, 1) or (B, F) of training clips with those of given frames: (B, 1) or (B, F)."""

    def noised(
        self,
        path: Path,
        prediction: Prediction,
        shown: Shown,
        x_t: Tensor,
        t: Tensor,
        eps: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Training clips x_t, noised with eps to the levels t that the network is told, with given frames as it is
        shown them."""
        return x_t

    @abstractmethod
    def held(self, shown: Shown) -> Tensor:
        """bool (B, F): frames that are not denoised, and in which there is no loss."""


@dataclass(frozen=True)
class Held(Showing):
    """Given frames stand in the clip, clean, at level 0 (or that of their context noise). They are not denoised, have
    no loss, and come out of the sampler bit for bit (LTX-Video, Wan 2.2 5B, SkyReels-V2's diffusion forcing).

    unknown: in sampling; in training latents of given frames are the clip's own.
    fresh: standard deviation at level 1 of noise that the sampler adds to them anew at each step, without telling the
      network; it falls with the level's square. It keeps videos of one picture moving (LTX-Video 0.9.5 and later: 0.15,
      `image_cond_noise_scale`).
    """

    unknown: Literal["nearest", "left_out"]
    in_start: Share = 0.0
    fresh: NonNegative = 0.0
    in_place: ClassVar[bool] = True

    def on_given(self, noise: Callable[[], Tensor], level: Tensor) -> Tensor | None:
        return self.fresh * level**2 * noise() if self.fresh else None

    @property
    def clean_level(self) -> float:
        """The level that the network is told of frames that it is shown clean."""
        return 0.0

    @property
    def afresh(self) -> bool:
        """Whether noise that sampling shows them with is drawn anew at each step; else it is the sample's own."""
        return False

    @property
    def ratio(self) -> float:
        """Noise to signal of frames of which the network is told the level of the others; 0: it is told their own."""
        return 0.0

    def draw(
        self, conditioning: Conditioning, x0: Tensor, footage: Footage | None, generator: torch.Generator | None
    ) -> Shown:
        given = conditioning(len(x0), x0.shape[2], generator, x0.device)
        return Shown(x0, given[:, None, :, None, None])

    def levels(self, conditioning: Conditioning, t: Tensor, shown: Shown, generator: torch.Generator | None) -> Tensor:
        return conditioning.frame_levels(t, self.held(shown), generator)

    def held(self, shown: Shown) -> Tensor:
        return shown.known[:, 0, :, 0, 0]


@dataclass(frozen=True)
class HeldAtLevel(Held):
    """The same, but the network is told a level just above 0 of clean frames (Cosmos Predict2 and Predict2.5).

    level: that it is told; in training they have as much noise.
    """

    level: Share = 0.0001

    @property
    def clean_level(self) -> float:
        return self.level

    def levels(self, conditioning: Conditioning, t: Tensor, shown: Shown, generator: torch.Generator | None) -> Tensor:
        own = super().levels(conditioning, t, shown, generator)
        return own if own is t else torch.where(self.held(shown), own.clamp(min=self.level), t)


@dataclass(frozen=True)
class HeldAfresh(Held):
    """The same, but what noise they are shown with in sampling is drawn anew at each step.

    noise: its ratio to the signal, of which the network is not told: it is told the level of the other frames (Cosmos
        1.0: 0.001); null: the noise is that of the context level, which it is told (SkyReels-V2's diffusion forcing).
    log_mean, log_std: in training the natural logarithm of that ratio is drawn from a normal distribution, anew for
        each clip (Cosmos 1.0: -3 and 2, as nvidia-cosmos/cosmos-predict1 trains).
    """

    noise: NonNegative | None = None
    log_mean: float = -3.0
    log_std: NonNegative = 2.0

    @property
    def afresh(self) -> bool:
        return True

    @property
    def ratio(self) -> float:
        return self.noise or 0.0

    def check(self, conditioning: Conditioning) -> None:
        level = getattr(conditioning, "context_noise", 0)
        if self.ratio and level:
            raise ValueError(
                f"conditioning.context_noise={level} is a level of given frames that the network is told, and with"
                f" given.noise={self.noise} it is told that of the others: conditioning.context_noise=0"
            )

    def levels(self, conditioning: Conditioning, t: Tensor, shown: Shown, generator: torch.Generator | None) -> Tensor:
        return t if self.ratio else super().levels(conditioning, t, shown, generator)

    def noised(
        self,
        path: Path,
        prediction: Prediction,
        shown: Shown,
        x_t: Tensor,
        t: Tensor,
        eps: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        if not self.ratio:
            return x_t
        normal = torch.special.ndtri(uniform((len(x_t), 1), generator))
        ratio = path.expand(moved((self.log_mean + self.log_std * normal).exp().to(t.dtype), x_t.device))
        known = (shown.latents + ratio * eps) * as_if_at(path, prediction, path.expand(t), ratio)
        return torch.where(shown.mask, known.to(x_t.dtype), x_t)


@dataclass(frozen=True)
class Beside(Showing):
    """Given frames are only shown, in channels beside the clip (`concat_channels`). All frames are noised, denoised and
    in the loss, and the given ones come out as the network makes them (Wan 2.1 and 2.2, SkyReels-V2, CogVideoX and
    HunyuanVideo as image-to-video models).

    In training `conditioning` draws frames of pixels, and they are encoded as in sampling; where they are encoded alone
    (`left_out`) it draws latent frames, since a codec does not take every number of them.

    scale: by which latents are multiplied before they are shown. CogVideoX 1.5 was trained with the autoencoder's
      factor the wrong way round (`invert_scale_latents`).
    cut: latent frames that are cut off a finished clip, which begins with the picture and jumps away from it (the first
      release of HunyuanVideo I2V: 1).
    """

    unknown: Unknown
    in_start: Share = 0.0
    scale: Positive = 1.0
    cut: Natural = 0
    in_place: ClassVar[bool] = False

    def seen(self, shown: Shown) -> Shown:
        return shown if self.scale == 1 else shown._replace(latents=shown.latents * self.scale)

    def check(self, conditioning: Conditioning) -> None:
        noise = getattr(conditioning, "context_noise", 0)
        if noise:
            raise ValueError(
                f"conditioning.context_noise={noise} is the noise level of frames that stand in the clip (given=held);"
                " beside it they are shown clean: conditioning.context_noise=0"
            )
        drawn = conditioning(256, 5, torch.Generator().manual_seed(0), "cpu")
        if self.unknown == "left_out" and bool((drawn[:, 1:] & ~drawn[:, :-1]).any()):
            raise ValueError(
                "given.unknown=left_out encodes given frames alone, and conditioning draws some behind unknown ones:"
                " draw the first ones (conditioning=i2v), or given.unknown=nearest"
            )

    def known(
        self,
        conditioning: Conditioning,
        batch: int,
        num_frames: int,
        compression: Compression,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Which frames of training clips are given, as `conditioning` draws them: bool (B, num_frames) on the CPU."""
        if self.unknown == "left_out":
            drawn = conditioning(batch, compression.latent_of(num_frames - 1) + 1, generator, "cpu")
            return drawn[:, [compression.latent_of(frame) for frame in range(num_frames)]]
        return conditioning(batch, num_frames, generator, "cpu")

    def draw(
        self, conditioning: Conditioning, x0: Tensor, footage: Footage | None, generator: torch.Generator | None
    ) -> Shown:
        if footage is None:
            raise ValueError("given=beside encodes given frames of pixels, and here are latents alone")
        compression = footage.compression
        known = self.known(conditioning, len(x0), footage.num_frames, compression, generator)
        latents = footage.latents(known, self.unknown, x0)
        known = folded(known, compression).to(x0.device, non_blocking=True)
        return self.seen(Shown(latents, known, self.unknown == "grey"))

    def levels(self, conditioning: Conditioning, t: Tensor, shown: Shown, generator: torch.Generator | None) -> Tensor:
        return t

    def held(self, shown: Shown) -> Tensor:
        batch, _, frames, _, _ = shown.latents.shape
        return torch.zeros(batch, frames, dtype=torch.bool, device=shown.latents.device)


def as_if_at(path: Path, prediction: Prediction, level: Tensor, ratio: Tensor) -> Tensor:
    """The factor with which x0 + ratio eps goes into the network as what it is, though it is told `level`."""
    its_own = prediction.spread(torch.ones_like(ratio), ratio)
    return prediction.spread(path.alpha(level), path.sigma(level)) / its_own


HELD = Held("nearest")  # of models and configs that do not say
HELD_NODE: dict[str, Any] = {"_target_": f"{Held.__module__}.{Held.__qualname__}", **asdict(HELD)}
