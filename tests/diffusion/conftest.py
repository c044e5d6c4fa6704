"""Every path and every prediction, with random parameters."""

import random

import pytest
import torch
from diffusion_parts import TinyNet, random_path, random_prediction

from dit.diffusion import path as paths
from dit.diffusion import prediction as predictions


@pytest.fixture(params=["linear", "cosine", "vp", "ve", "discrete", "discrete_to_zero"])
def path(request: pytest.FixtureRequest) -> paths.Path:
    return random_path(request.param, random.Random(request.node.name))


@pytest.fixture(params=["eps", "x0", "v", "flow", "flow_to_data", "edm", "discrete_timesteps", "whole_timesteps"])
def prediction(request: pytest.FixtureRequest) -> predictions.Prediction:
    return random_prediction(request.param, random.Random(request.node.name))


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(sum(map(ord, request.node.name)))


@pytest.fixture
def net() -> TinyNet:
    return TinyNet(channels=3).double()
