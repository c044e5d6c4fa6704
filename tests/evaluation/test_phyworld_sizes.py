"""The networks of the experiments after Kang et al. 2024 have as many weights as the published ones."""

from pathlib import Path

import hydra
import pytest
import torch
from hydra.utils import instantiate

from data.worlds.phyworld.dataset import GIVEN

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


def test_three_given_frames_are_the_latent_frames_that_training_gives() -> None:
    """Of the autoencoder that the head of the experiment trains, and of pixels."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", ["experiment=phyworld_uniform", "codec.ckpt=runs/x", "name=x"])
        small = hydra.compose("train", ["experiment=phyworld_small", "name=x"])
        network = hydra.compose("codec/network/causal").codec.network
    with torch.device("meta"):
        autoencoder = instantiate(network, _convert_="all")
    compression, data = autoencoder.compression, config.data
    assert compression.latent_of(GIVEN - 1) + 1 == config.conditioning.tasks.predict.count == 2
    assert compression.latent_shape(data.num_frames, data.height, data.width) == (16, 32, 32)
    assert network.latent_channels == config.net.in_channels == config.net.out_channels
    assert small.conditioning.tasks.predict.count == GIVEN and small.codec["_target_"].endswith("PixelCodec")
