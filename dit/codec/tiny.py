"""The tiny autoencoder of FLUX.2's latents ("TAEF2"): pictures 8 times smaller, in 32 channels."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from dit.codec.base import Codec, Dtype
from dit.codec.chunks import frame_by_frame
from dit.codec.tiling import Tiling
from dit.config.limits import Count, Positive
from dit.folders import check_fingerprint

WIDTH, CHANNELS, STAGES, BLOCKS = 64, 32, 3, 3
POOLED, GROUPS = 256, 4  # of the blocks nearest the latents
BOUND = 3.0  # latents are held within it when they are decoded


class Tiny(Codec):
    """Two sequences of convolutions, 1.3 million weights each, that code a clip frame by frame.

    encoder, decoder: files of the two (.pth, .safetensors), each the state of one flat sequence of layers.
    fingerprint: that the two must have, which a run writes into its config; null: any.
    shift, scale: latents are `scale * (z - shift)`, one number each for all channels.
    batch: frames that are coded at once; null: all. tiling: cuts frames into tiles; null: whole frames.
    dtype: of weights and arithmetic, also under autocast. Pixels and latents outside stay as they are.

    It stands still: nothing trains it, checkpoints do not hold it, and a run needs the files for as long as it lives.

    Raises FileNotFoundError or ValueError, in one line, for files that do not hold the two.
    """

    channels = CHANNELS
    stride = (1, 2**STAGES, 2**STAGES)
    causal = False

    def __init__(
        self,
        encoder: str | None,
        decoder: str | None,
        fingerprint: str | None,
        shift: float,
        scale: Positive,
        batch: Count | None,
        tiling: Tiling | None,
        dtype: Dtype = "float32",  # configs of before do not say
    ) -> None:
        super().__init__()
        self.dtype = getattr(torch, dtype)
        self.shift, self.scale, self.batch, self.tiling = shift, scale, batch, tiling
        if tiling is not None:
            tiling.spans((1, 1, 1), self.compression)  # raises for tiles that are too small
        self.encoder, self.decoder = encoder_layers(), decoder_layers()
        files = {"encoder": there(encoder, "encoder"), "decoder": there(decoder, "decoder")}
        if not torch.empty(0).is_meta:
            for name, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
                fill(layers, files[name], f"codec.{name}")
        self.requires_grad_(False).to(self.dtype)
        self._identity = check_fingerprint(files, fingerprint, f"codec.encoder={encoder} codec.decoder={decoder}")

    def identified(self) -> str:
        """The fingerprint of its files, for the config."""
        return self._identity

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, num_frames, height, width) in [-1, 1] -> latents (B, 32, F, H, W), ValueError for others."""
        return self.latents_of(self.encoder_output(pixels))

    def encoder_output(self, pixels: Tensor) -> Tensor:
        """The latents before shift and scale."""
        self.latent_shape(*pixels.shape[2:])

        def code(tile: Tensor) -> Tensor:
            return frame_by_frame(tile, self.batch, self.encoder)

        given = ((pixels + 1) / 2).to(self.dtype)
        with torch.autocast(pixels.device.type, enabled=False):
            z = code(given) if self.tiling is None else self.tiling.encode(given, self.compression, code)
        return z.to(pixels.dtype)

    def latents_of(self, output: Tensor) -> Tensor:
        return (output - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 32, F, H, W) -> pixels (B, 3, num_frames, height, width) in [-1, 1]."""

        def code(tile: Tensor) -> Tensor:
            return frame_by_frame(tile, self.batch, self.decoder)

        z = (latents / self.scale + self.shift).to(self.dtype)
        with torch.autocast(latents.device.type, enabled=False):
            made = code(z) if self.tiling is None else self.tiling.decode(z, self.compression, code)
        return (2 * made.to(latents.dtype) - 1).clamp(-1, 1)


class Block(nn.Module):
    """Three convolutions beside their input.

    pooled: first something is added to the input that is normed over the whole picture.
    """

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pool = (
            nn.Sequential(
                nn.Conv2d(WIDTH, POOLED, 1, bias=False),
                nn.GroupNorm(GROUPS, POOLED),
                nn.ReLU(),
                nn.Conv2d(POOLED, WIDTH, 1, bias=False),
            )
            if pooled
            else None
        )
        convs = [conv(WIDTH, WIDTH) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64, H, W) -> the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return functional.relu(self.conv(x) + x)


class Bounded(nn.Module):
    """Softly within `BOUND`."""

    def forward(self, x: Tensor) -> Tensor:
        return BOUND * torch.tanh(x / BOUND)


def conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def encoder_layers() -> nn.Sequential:
    """Pixels (B, 3, height, width) in [0, 1] -> (B, 32, H, W)."""
    layers: list[nn.Module] = [conv(3, WIDTH), Block(pooled=False)]
    for stage in range(STAGES):
        blocks = [Block(pooled=stage == STAGES - 1) for _ in range(BLOCKS)]
        layers += [conv(WIDTH, WIDTH, stride=2, bias=False), *blocks]
    return nn.Sequential(*layers, conv(WIDTH, CHANNELS))


def decoder_layers() -> nn.Sequential:
    """(B, 32, H, W) -> pixels (B, 3, height, width) in [0, 1]."""
    layers: list[nn.Module] = [Bounded(), conv(CHANNELS, WIDTH), nn.ReLU()]
    for stage in range(STAGES):
        blocks = [Block(pooled=stage == 0) for _ in range(BLOCKS)]
        layers += [*blocks, nn.Upsample(scale_factor=2), conv(WIDTH, WIDTH, bias=False)]
    return nn.Sequential(*layers, Block(pooled=False), conv(WIDTH, 3))


def there(file: str | None, name: str) -> Path:
    """The file of one half. Raises ValueError or FileNotFoundError where none is named, or it is not there."""
    if file is None:
        raise ValueError(f"codec.{name} is not given: a file of weights, such as codec.{name}=taef2_{name}.pth")
    if not Path(file).is_file():
        raise FileNotFoundError(f"codec.{name}={file} is not there: a file of weights is wanted")
    return Path(file)


def fill(layers: nn.Module, file: Path, key: str) -> None:
    """Loads weights, in place. key: of the setting that names the file, for messages."""
    try:
        weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        layers.load_state_dict(weights, strict=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, EOFError, UnpicklingError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        raise ValueError(f"{key}={file} does not hold the weights of that half ({first})") from None
