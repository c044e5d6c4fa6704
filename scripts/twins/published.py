"""A published model of ours beside diffusers' own class, with the same weights and the same call, under one clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from dit.interop.diffusers import recognise
from dit.interop.weights import to_theirs
from dit.net.backbone import Backbone
from scripts.twins.examples import Draw, example


@dataclass(frozen=True)
class Example:
    """What `twin=<name>` measures unless told otherwise: a few blocks of a published size at full width.

    preset: of configs/net. overrides: of it. The rest are settings of the benchmark.
    """

    preset: str
    overrides: tuple[str, ...]
    frames: int
    height: int
    width: int
    batch: int = 2
    text_tokens: int = 128

    def settings(self) -> dict[str, Any]:
        """Defaults of the benchmark's settings."""
        sizes = {name: getattr(self, name) for name in ("frames", "height", "width", "batch", "text_tokens")}
        return {"net": self.preset, **sizes}


EXAMPLES = {
    "dit": Example("dit_xl_2_256", ("net.depth=4",), 1, 32, 32, batch=4),
    "latte": Example("latte_xl_2", ("net.depth=4",), 8, 16, 16),
    "wan": Example("wan21_1_3b", ("net.depth=2",), 2, 32, 32),
    "skyreels_v2": Example("skyreels_v2_1_3b", ("net.depth=2",), 2, 32, 32),
    "ltx_video": Example("ltx_video_2b", ("net.depth=2",), 2, 16, 16),
    "cogvideox": Example("cogvideox_2b", ("net.depth=2",), 2, 32, 32),
    "hunyuan_video": Example("hunyuan_video", ("net.depth=2", "net.pattern=DP"), 4, 32, 32, batch=1),
    "hunyuan_video15": Example("hunyuan_video15", ("net.depth=2",), 4, 16, 16, batch=1),
    "kandinsky5": Example("kandinsky5_lite", ("net.depth=3", "net.pattern=XRR"), 4, 24, 24),
    "allegro": Example("allegro", ("net.depth=2",), 4, 24, 24),
    "cosmos": Example("cosmos_predict2_2b", ("net.depth=2",), 4, 24, 24),
    "mochi": Example("mochi", ("net.depth=2", "net.pattern=DE"), 4, 32, 32, batch=1),
}


def for_one(name: str, arguments: list[str]) -> list[str]:
    """Arguments that hold `twin=all` for one of the models: an image has one frame, whatever is asked of videos."""
    image = EXAMPLES[name].frames == 1
    kept = [given for given in arguments if given != "twin=all" and not (image and given.startswith("frames="))]
    return [f"twin={name}", *kept]


Call = tuple[Tensor, Tensor, dict[str, Tensor]]  # x, t, cond


class Ours(nn.Module):
    """Our network, whose output is laid out as the reference's. Its input is laid out once, before the clock runs."""

    def __init__(self, net: Backbone) -> None:
        super().__init__()
        self.net = net
        self.family = recognise(net)

    def forward(self, arguments: dict[str, Any], call: Call) -> Tensor:
        return self.family.output(self.net(*call), arguments)


class Theirs(nn.Module):
    """diffusers' class."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, arguments: dict[str, Any], _: Call | None = None) -> Tensor:
        out = self.net(**arguments, return_dict=False)
        return out if isinstance(out, Tensor) else out[0]


def blank(net: Backbone) -> nn.Module:
    """diffusers' class with the settings of a network of ours, and weights of its own."""
    family = recognise(net)
    own = {name: value for name, value in family.config(net).items() if name in family.defaults}
    return getattr(diffusers, family.class_name)(**own)  # type: ignore[no-any-return]


def reference(net: Backbone) -> nn.Module:
    """diffusers' class with the settings and weights of a network of ours."""
    theirs = blank(net).to(next(net.parameters()).device)
    theirs.eval()  # DiT drops labels at random in training, and nothing else differs
    theirs.load_state_dict(to_theirs(recognise(net).links(net), net.state_dict()), strict=True)
    return theirs


def arguments_for(
    net: Backbone, batch: int, size: tuple[int, int, int], text_tokens: int, device: str
) -> dict[str, Any]:
    """Random arguments of the reference's `forward`."""
    family = recognise(net)
    draw = Draw(torch.Generator().manual_seed(0), torch.float32, device)
    return example(family, family.settings(family.config(net)), batch, size, text_tokens, draw)
