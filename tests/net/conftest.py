"""Networks for the tests: composed from the real configs, made tiny, with every weight random."""

from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
import torch
from hydra.utils import instantiate

from dit.net.backbone import Backbone

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY = ("width=48", "depth=2", "heads=4", "in_channels=3", "out_channels=5", "patch=[2,2,1]", "text_width=10")
BASE = ["net/text=cross", "net/pooled=none", "net/position=sincos"]

Build = Callable[..., Backbone]


@pytest.fixture
def build() -> Build:
    """build(*overrides, preset="demo", tiny=True, dtype=float64): overrides as a user would type them."""

    def builder(
        *overrides: str, preset: str = "demo", tiny: bool = True, dtype: torch.dtype = torch.float64
    ) -> Backbone:
        sizes = [f"net.{size}" for size in TINY] if tiny else []
        if preset == "demo" and tiny:  # a base of its own, whatever the demo's recipe comes to be
            chosen = {override.split("=")[0] for override in overrides}
            sizes += [choice for choice in BASE if choice.split("=")[0] not in chosen]
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra.compose(overrides=[f"+net={preset}", "net/kernel=sdpa", *sizes, *overrides])
        return instantiate(config.net, _convert_="all").to(dtype)

    return builder


@pytest.fixture
def randomised(build: Build) -> Build:
    """As `build`, with every parameter random: zero gates and unit norms would hide what they multiply."""

    def builder(*overrides: str, **kwargs: object) -> Backbone:
        net = build(*overrides, **kwargs)
        generator = torch.Generator().manual_seed(1)
        for parameter in net.parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = 0.5 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            parameter.data.copy_(scale * values)
        return net

    return builder
