"""What a twin must have in common with our network to be comparable: the sizes of an image DiT with class labels."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """size: latents along height and width; the other names are those of configs/net."""

    size: int
    patch: int
    in_channels: int
    out_channels: int
    width: int
    depth: int
    heads: int
    num_classes: int
