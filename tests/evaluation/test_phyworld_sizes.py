"""The networks of the experiments after Kang et al. 2024 have as many weights as the published ones."""

from pathlib import Path

import hydra
import pytest
import torch
from hydra.utils import instantiate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PUBLISHED = {"s": 22.5, "b": 89.5, "l": 310.0, "xl": 456.0}  # millions: table 1 of arXiv 2411.02385


@pytest.mark.parametrize("scenario, size", [("uniform", "s"), ("collision", "b"), ("parabola", "l"), ("uniform", "xl")])
def test_networks_are_as_large_as_published(scenario: str, size: str) -> None:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose(
            "train", [f"experiment=phyworld_{scenario}", f"net={size}", "codec.ckpt=runs/x", "name=x"]
        )
    assert config.data.train.scenario == config.data.val.scenario == scenario
    with torch.device("meta"):
        net = instantiate(config.net, _convert_="all")
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count / 1e6 == pytest.approx(PUBLISHED[size], rel=0.002)
