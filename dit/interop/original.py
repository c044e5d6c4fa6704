"""Checkpoints of the original repositories of DiT (facebookresearch/DiT) and SiT (willisma/SiT), as safetensors.

Both have one layout of keys. Their convention of time and sign differs:
- DiT embeds timesteps in [0, 1000), as our networks do (t times 1000), and its output is what ours is;
- SiT runs from noise at time 0 to data at time 1, and its output is the velocity towards the data: the opposite of
  dx_t/dt here. So `LevelFromNoise` embeds 1 - t, and the sign goes into the last layer. SiT drops the second half of
  its output channels; that half is left out here and written as zeros, which it also is in what SiT's training makes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.folders import PICKLES, Weights
from dit.interop.describe import describe, difference
from dit.interop.diffusers import WRONG, reason
from dit.interop.family import Network, Overrides
from dit.interop.files import writing
from dit.interop.presets import build_empty, compose
from dit.interop.weights import Change, Link, Misfit, Same, convolution, linear, to_ours, to_theirs
from dit.net.backbone import Backbone
from dit.net.coordinates import Coordinates
from dit.net.embed import LevelFromNoise
from dit.writing import write_weights

FOREIGN = (".pt", ".pth", ".bin")  # suffixes of pickles that others write
POSITIONS = "pos_embed"  # a table in the file, a formula here
LAST = "final_layer.linear.weight"
DIT, SIT = "dit_s_2", "sit_s_2"
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # width -> heads of the sizes S, B, L, XL


def from_original(source: str | Path | Mapping[str, Tensor], preset: str = DIT, heads: int | None = None) -> Backbone:
    """A checkpoint of DiT or SiT as our network with its weights, in evaluation mode.

    source: a safetensors file, or the tensors under the repository's names. preset: dit_s_2 or sit_s_2 of configs/net
    (or another of that kind), whose parts the checkpoint has; all sizes are read off the tensors. heads: only needed
    where the width is none of the published sizes.

    Raises ValueError or FileNotFoundError, naming file and key: a missing key, a wrong shape, a table of positions
    that is not DiT's, a pickle.
    """
    where, weights = ("", source) if isinstance(source, Mapping) else (f"{source}: ", read(Path(source)))
    try:
        sizes = Sizes.of_weights(weights, heads)
        net = build_empty(compose(preset, made=sizes.overrides(preset)))
        learned = {key: tensor for key, tensor in weights.items() if key != POSITIONS}
        links = original_links(net, sizes.features)
        ours = to_ours(links, learned, {key: tensor.shape for key, tensor in net.state_dict().items()})
        if POSITIONS in weights:
            check_positions(net, weights[POSITIONS])
    except WRONG as error:
        raise ValueError(f"{where}{reason(error)}") from None
    net.load_state_dict({key: tensor.clone() for key, tensor in ours.items()}, strict=True, assign=True)
    return net.eval()


def original_config(source: str | Path | Mapping[str, Tensor], preset: str, heads: int | None = None) -> dict[str, Any]:
    """The config of the network that `from_original` makes of a checkpoint, with the same arguments."""
    weights = source if isinstance(source, Mapping) else read(Path(source))
    return compose(preset, made=Sizes.of_weights(weights, heads).overrides(preset))


def to_original(net: Backbone, file: str | Path, size: int) -> None:
    """Writes a network so that the original repository loads it (`torch.load` there becomes safetensors' `load_file`).

    size: latents along height and width that its table of positions is made for, 32 for images of 256 x 256.
    Raises ValueError when the network is neither DiT nor SiT, naming the first difference; FileExistsError.
    """
    file = Path(file)
    if file.exists():
        raise FileExistsError(f"{file} is there already; give another name or remove it")
    weights, part = original_weights(net, size), file.with_name(f".{file.name}.part")
    with writing(file):
        try:
            write_weights(weights, part, {"format": "pt"})
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)


def original_weights(net: Backbone, size: int) -> dict[str, Tensor]:
    """The tensors of a network under the original repository's names; the arguments are those of `to_original`."""
    check_parts(net)
    if size % net.patch[1]:
        raise ValueError(f"size={size} is not a multiple of the patch's {net.patch[1]}")
    rows = net.out_channels * net.patch[1] ** 2 * (2 if is_sit(net) else 1)
    theirs = to_theirs(original_links(net, rows), net.state_dict())
    grid = size // net.patch[1]
    like = theirs["x_embedder.proj.weight"]
    return {POSITIONS: positions(net, grid).to(like.device, like.dtype), **theirs}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a DiT. features: outputs of the last layer for each token. hidden: of the MLP."""

    width: int
    depth: int
    heads: int
    in_channels: int
    features: int
    patch: int
    classes: int
    hidden: int
    frequencies: int

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor], heads: int | None) -> Sizes:
        """Raises Misfit for a missing key or a tensor of another rank."""
        width, channels, patch, _ = shape(weights, "x_embedder.proj.weight", 4)
        heads = heads or HEADS.get(width)
        if heads is None:
            raise ValueError(f"width={width} is none of the published sizes {list(HEADS)}, so heads must be given")
        depth = 1 + max((int(key.split(".")[1]) for key in weights if key.startswith("blocks.")), default=-1)
        if depth > len(weights):
            raise ValueError(f"blocks.{depth - 1} is named among {len(weights)} tensors: no network has them")
        return cls(
            width=width,
            depth=depth,
            heads=heads,
            in_channels=channels,
            features=shape(weights, LAST, 2)[0],
            patch=patch,
            classes=shape(weights, "y_embedder.embedding_table.weight", 2)[0] - 1,
            hidden=shape(weights, "blocks.0.mlp.fc1.weight", 2)[0],
            frequencies=shape(weights, "t_embedder.mlp.0.weight", 2)[1],
        )

    @classmethod
    def of_network(cls, net: Network) -> Sizes:
        """May raise AttributeError for a network that has other parts."""
        return cls(
            width=net.width,
            depth=net.depth,
            heads=net.heads,
            in_channels=net.in_channels,
            features=net.final.linear.out_features,
            patch=net.patch[1],
            classes=net.vectors["label"].table.num_embeddings - 1,
            hidden=net.blocks[0].mlp.up.out_features,
            frequencies=net.level.frequencies,
        )

    def overrides(self, preset: str) -> Overrides:
        """The changes of a preset with the same parts. Raises Misfit when the last layer fits no number of channels."""
        sit = compose(preset)["level"]["_target_"].endswith(LevelFromNoise.__name__)
        out, left = divmod(self.features, self.patch**2)
        if left or (sit and out not in (self.in_channels, 2 * self.in_channels)):
            allowed = f"{self.in_channels} or {2 * self.in_channels}" if sit else "a whole number of"
            raise Misfit(LAST, f"has {self.features} rows, needed {allowed} channels of {self.patch**2} places")
        out = self.in_channels if sit else out
        values = {
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "in_channels": self.in_channels,
            "out_channels": out,
            "patch": [1, self.patch, self.patch],
            "vectors.label.num_classes": self.classes,
            "mlp.ratio": self.hidden / self.width,
            "level.frequencies": self.frequencies,
        }
        return Overrides({}, values)


@dataclass(frozen=True)
class Towards(Change):
    """SiT's last layer: ours with the opposite sign, and rows of channels that SiT computes and drops.

    places: values of a patch in one channel. channels: ours; all_channels: theirs, which stand behind them.
    """

    places: int
    channels: int
    all_channels: int

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        (tensor,) = theirs
        return [-tensor.unflatten(0, (self.places, -1))[:, : self.channels].flatten(0, 1)]

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        (tensor,) = ours
        kept = -tensor.unflatten(0, (self.places, -1))
        dropped = kept.new_zeros(self.places, self.all_channels - self.channels, *kept.shape[2:])
        return [torch.cat([kept, dropped], dim=1).flatten(0, 1)]


def original_links(net: Network, features: int) -> list[Link]:
    """Our names and the repository's. features: rows of the repository's last layer."""
    places = net.patch[1] ** 2
    last: Change = Towards(places, net.out_channels, features // places) if is_sit(net) else Same()
    links = [
        *convolution("embed", "x_embedder.proj", (net.width, net.in_channels, *net.patch[1:])),
        *linear("level.hidden", "t_embedder.mlp.0"),
        *linear("level.out", "t_embedder.mlp.2"),
        Link(("vectors.label.table.weight",), ("y_embedder.embedding_table.weight",)),
        *linear("final.modulation.1.linear", "final_layer.adaLN_modulation.1"),
        *(Link((f"final.linear.{kind}",), (f"final_layer.linear.{kind}",), last) for kind in ("weight", "bias")),
    ]
    for i in range(net.depth):
        block = f"blocks.{i}"
        links += [
            *linear(f"{block}.modulation.linear", f"{block}.adaLN_modulation.1"),
            *linear(f"{block}.attention.qkv", f"{block}.attn.qkv"),
            *linear(f"{block}.attention.out", f"{block}.attn.proj"),
            *linear(f"{block}.mlp.up", f"{block}.mlp.fc1"),
            *linear(f"{block}.mlp.down", f"{block}.mlp.fc2"),
        ]
    return links


def is_sit(net: Network) -> bool:
    """Whether its time runs from noise to data."""
    return isinstance(net.level, LevelFromNoise)


def positions(net: Network, grid: int) -> Tensor:
    """The table that the network adds to a square of tokens, (1, grid * grid, width) in float64."""
    nothing = torch.zeros(1, grid * grid, net.width, dtype=torch.float64)
    return net.position.add(nothing, Coordinates.of_clip((1, grid, grid)))


def check_positions(net: Network, table: Tensor) -> None:
    """Raises ValueError when a stored table is not what the network computes."""
    grid = round((table.shape[1] if table.dim() == 3 else 0) ** 0.5)
    if tuple(table.shape) != (1, grid * grid, net.width):
        raise Misfit(POSITIONS, f"has the shape {tuple(table.shape)}, needed (1, tokens of a square, {net.width})")
    off = (table.cpu().double() - positions(net, grid)).abs().max().item()
    if off > 1e-2:  # bfloat16 rounds 1 by 4e-3; any other table is off by far more
        raise Misfit(POSITIONS, f"is off by {off:.2g} from DiT's sines and cosines: no other table is supported")


def check_parts(net: Backbone) -> None:
    """Raises ValueError when a network is neither DiT nor SiT."""
    try:
        preset = SIT if is_sit(net) else DIT
        wanted = build_empty(compose(preset, made=Sizes.of_network(net).overrides(preset)))
    except (AttributeError, KeyError) as error:
        raise ValueError(f"this network is neither DiT nor SiT as their repositories have them: {error}") from None
    if found := difference(describe(net), describe(wanted)):
        raise ValueError(f"this network is neither DiT nor SiT as their repositories have them: {found}")


def read(file: Path) -> Weights:
    """One safetensors file. Raises as `from_original`."""
    if file.suffix.lstrip(".") in PICKLES and file.is_file():
        raise ValueError(
            f"{file} is a pickle, which may run code when it is read: convert it once by safetensors.torch.save_file("
            f"torch.load('{file.name}', weights_only=True), '{file.stem}.safetensors'), of a training checkpoint its"
            " entry 'ema'"
        )
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: a safetensors file is wanted")
    return Weights(file.parent, file.name)


def shape(weights: Mapping[str, Tensor], key: str, rank: int) -> torch.Size:
    """The shape of a tensor. Raises Misfit when it is missing or of another rank."""
    if key not in weights:
        raise Misfit(key, "is missing: this is no checkpoint of DiT's or SiT's repository")
    if weights[key].dim() != rank:
        raise Misfit(key, f"has the shape {tuple(weights[key].shape)}, needed {rank} axes")
    return weights[key].shape
