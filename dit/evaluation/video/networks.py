"""Networks that turn clips into features, each with the way in which it takes pixels: configs/features/*.yaml.

Anything that maps `(B, 3, F, H, W)` to `(B, d)`, or pictures `(B, 3, H, W)` to `(B, d)`, is a feature network: a module
of one's own by its `_target_`, a TorchScript file, an encoder of transformers. `Network` is what stands around it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, Positive
from dit.encoders import WEIGHTS, load_encoder
from dit.evaluation.video.clips import levels, shape_of
from dit.folders import located, sha256


class Network(nn.Module):
    """A feature network: clips in uint8 or in [-1, 1] -> features, in evaluation mode and without gradients.

    Args:
        device: where it computes.
        name: stands in the name of each score, as in `fvd[i3d]`.
        module: makes it: (B, 3, F, h, w) float32 -> (B, d); one that takes pictures, (B, 3, h, w) -> (B, d).
        pictures: whether the module takes pictures: it is then given the frames one by one.
        size: height and width that frames are stretched to, bilinearly; null leaves them as they are.
        antialias: whether frames that are made smaller are smoothed before. The public FVD code does not.
        mean, std: of each channel of pixels in [0, 1]; 0.5 and 0.5 make them [-1, 1].
        frames: how many the module takes; null: any number from `least_frames` on. Of longer clips the first are taken.
        least_frames: fewer are refused.
        batch: clips, or pictures, at once.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        device: torch.device | str,
        *,
        name: str,
        module: Callable[[], nn.Module],
        pictures: bool,
        size: Count | None,
        antialias: bool,
        mean: Sequence[float],
        std: Sequence[Positive],
        frames: Count | None,
        least_frames: Count,
        batch: Count,
    ) -> None:
        super().__init__()
        self.name, self.pictures, self.frames, self.least_frames = name, pictures, frames, least_frames
        self.size, self.antialias, self.batch = size, antialias, batch
        self.module = module().eval().requires_grad_(False)
        for key, values in (("mean", mean), ("std", std)):
            if len(values) != 3:
                raise ValueError(f"features.{key}={list(values)} must have 3 numbers, one for each colour")
            self.register_buffer(key, torch.tensor(values, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.sha256: str = getattr(self.module, "sha256", None) or sha256_of_weights(self.module)
        self.to(device)

    @property
    def resize(self) -> str:
        """How frames come to the network's size, in words."""
        if self.size is None:
            return "none"
        return f"bilinear to {self.size}x{self.size}, {'with' if self.antialias else 'without'} antialias"

    @property
    def mark(self) -> str:
        """Of all that decides the features of a clip: a store is keyed by it."""
        said = (
            self.sha256, self.pictures, self.resize, self.mean.flatten().tolist(), self.std.flatten().tolist(),
            self.frames, type(self.module).__qualname__, getattr(self.module, "settings", ""),
        )  # fmt: skip
        return hashlib.sha256(repr(said).encode()).hexdigest()[:32]

    def taken(self, clip: Tensor) -> Tensor:
        """The frames of a clip that the network takes. ValueError, in one line, where there are too few."""
        least = self.frames or self.least_frames
        if clip.shape[1] < least:
            raise ValueError(
                f"{self.name} takes {'' if self.frames else 'at least '}{least} frames, and clips have"
                f" {shape_of(clip)}: sample longer ones, or take another network (features=random takes any)"
            )
        return clip[:, : self.frames]

    def shape_taken(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(frames, height, width) of what is taken of a clip of that shape."""
        frames, height, width = shape
        return min(frames, self.frames or frames), height, width

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, F, H, W) -> (B, d), or (B, F, d) where it takes pictures; float32 on the CPU.

        Raises ValueError, in one line, where there are too few frames, and where features are no finite vectors.
        """
        clips = torch.stack([self.taken(clip) for clip in clips])
        frames = clips.shape[2]
        rows = clips.movedim(2, 1).flatten(0, 1) if self.pictures else clips
        found = torch.cat([self._features(piece) for piece in rows.split(self.batch)])
        return found.unflatten(0, (-1, frames)) if self.pictures else found

    def _features(self, rows: Tensor) -> Tensor:
        pixels = levels(rows).to(self.mean.device).float() / 255
        if not self.pictures:
            count, _, frames, _, _ = pixels.shape
            pixels = self._sized(pixels.movedim(2, 1).flatten(0, 1))  # (B F, 3, h, w)
            pixels = pixels.unflatten(0, (count, frames)).movedim(1, 2)
        else:
            pixels = self._sized(pixels)
        found = self.module(pixels)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(rows):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{self.name} gives {got} for {len(rows)}; features are ({len(rows)}, numbers)")
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{self.name} gives features that are not finite; are these its own weights and pixels?")
        return found.float().cpu()

    def _sized(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [0, 1], resized and normalised."""
        if self.size is not None and frames.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            frames = functional.interpolate(
                frames, size=size, mode="bilinear", align_corners=False, antialias=self.antialias
            )
        return (frames - self.mean) / self.std


class TorchScript(nn.Module):
    """A network out of a TorchScript file, as the I3D of FVD and the Inception of FID are passed around.

    file: on this disk. call: arguments of its `forward` beside the pixels, by name: those files make features only if
    they are told to.

    A TorchScript file is a program. torch runs it in an interpreter of its own, but a file from a stranger is no data.

    Raises ValueError or FileNotFoundError, in one line: no file is named, it is not there, or it is not TorchScript.
    """

    def __init__(self, *, file: str | None, call: Mapping[str, bool]) -> None:
        super().__init__()
        path = existing(
            file, "features.module.file", "the TorchScript file of a feature network, as i3d_torchscript.pt"
        )
        try:
            self.module = torch.jit.load(str(path), map_location="cpu")
        except Exception as error:  # whatever torch says of bytes that may be anything
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(f"features.module.file={path} is no TorchScript file ({first[:120]})") from None
        self.call = dict(call)
        self.settings = repr(sorted(self.call.items()))
        self.sha256 = sha256_of(path)

    def forward(self, pixels: Tensor) -> Tensor:
        """Clips, or pictures, as the file takes them -> (B, d). ValueError, in one line, where it takes none."""
        try:
            found: Tensor = self.module(pixels, **self.call)
        except RuntimeError as error:
            last = next(reversed(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(
                f"the TorchScript network of the features does not take {tuple(pixels.shape)} and {self.call or 'no'}"
                f" arguments beside ({last[:160]})"
            ) from error
        return found.flatten(1)


class VideoMAE(nn.Module):
    """The mean of the last tokens of VideoMAE's encoder (Tong et al. 2022, arXiv 2203.12602), by transformers.

    folder: on this disk, or `hub:ORG/NAME` in the cache of the hub's client.

    Raises ValueError or FileNotFoundError, in one line: no folder is named, it is not there, or holds another model.
    """

    def __init__(self, *, folder: str | None) -> None:
        super().__init__()
        if folder is None:
            raise ValueError(
                "features.module.folder is missing: a folder of transformers with a VideoMAE (config.json and"
                " model.safetensors), features.module.folder=DIR"
            )
        path = located(folder, "features.module.folder")
        model: Any = load_encoder(path, torch.float32, "features=videomae")
        if model.config.model_type != "videomae":
            raise ValueError(f"{path} holds a {model.config.model_type}, and features=videomae wants a VideoMAE")
        self.model = model
        files = sorted(path.glob(f"{WEIGHTS.partition('.')[0]}*.safetensors"))
        self.sha256 = sha256_of(*files)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, F, H, W) -> (B, d)."""
        tokens: Tensor = self.model(pixel_values=pixels.movedim(1, 2)).last_hidden_state
        return tokens.mean(dim=1)


def existing(file: str | None, key: str, wanted: str) -> Path:
    """The file that a setting names. ValueError or FileNotFoundError, in one line, where it is not there."""
    if file is None:
        raise ValueError(f"{key} is missing: {wanted}; {key}=FILE")
    if not Path(file).is_file():
        raise FileNotFoundError(f"{key}={file} is not there: it names {wanted}")
    return Path(file)


def sha256_of(*files: Path) -> str:
    """Of one file what `sha256sum` prints; of several the hash of what it prints of them, names left out."""
    found = [sha256(file) for file in files]
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def sha256_of_weights(module: nn.Module) -> str:
    """Of the names, shapes, dtypes and bits of a module's state."""
    mark = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        mark.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        mark.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return mark.hexdigest()
