"""Every combination of this package's YAMLs builds an objective that trains; every YAML has exactly its arguments."""

import importlib
import inspect
import itertools
import random
from pathlib import Path

import pytest
import torch
from diffusion_parts import TinyNet
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from dit.codec.compression import PIXELS
from dit.diffusion.footage import Footage

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GROUPS = ("path", "prediction", "levels", "weighting", "conditioning", "space", "given")
OPTIONS = {
    g: sorted({file.stem for file in (CONFIGS / g).glob("*.yaml")} - {"own"}) for g in GROUPS
}  # own: of a published model
TRIALS = 80  # as many as it takes for each option to be drawn


def load(group: str, option: str) -> DictConfig:
    config = OmegaConf.load(CONFIGS / group / f"{option}.yaml")
    assert isinstance(config, DictConfig)
    return config


@pytest.mark.parametrize("group, option", [(g, o) for g in GROUPS for o in OPTIONS[g]] + [("objective", "denoising")])
def test_keys_are_the_arguments_without_defaults(group: str, option: str) -> None:
    config = load(group, option)
    parameters = inspect.signature(get_object(config["_target_"])).parameters
    assert set(config) - {"_target_"} == set(parameters)
    for name, parameter in parameters.items():
        if group == "given":  # built by code, too: of configs that do not say, and of published models
            assert parameter.default in (inspect.Parameter.empty, config[name]), f"two values of {name}"
        else:
            assert parameter.default is inspect.Parameter.empty, f"{name} has a default in two places"


@pytest.mark.parametrize("trial", range(TRIALS))
def test_random_combinations_train(trial: int) -> None:
    rng = random.Random(trial)
    chosen = {group: rng.choice(OPTIONS[group]) for group in GROUPS}
    config = OmegaConf.create(
        {g: load(g, o) for g, o in chosen.items()} | {"objective": load("objective", "denoising")}
    )
    objective = instantiate(config.objective, _convert_="all")
    net = TinyNet(3)
    x0 = torch.randn(2, 3, 4, 3, 3)
    footage = Footage(x0.tanh(), lambda pixels: pixels, PIXELS)
    output = objective(net, x0, {}, torch.Generator().manual_seed(trial), footage)
    output.loss.backward()
    assert output.loss.isfinite() and output.loss > 0
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_every_option_is_among_the_random_combinations() -> None:
    drawn: dict[str, set[str]] = {group: set() for group in GROUPS}
    for trial in range(TRIALS):
        rng = random.Random(trial)
        for group in GROUPS:
            drawn[group].add(rng.choice(OPTIONS[group]))
    assert drawn == {group: set(options) for group, options in OPTIONS.items()}


def test_every_class_has_a_config() -> None:
    """A choice that no YAML names cannot be ablated."""
    files = [load(group, option) for group in GROUPS for option in OPTIONS[group]]
    named = {target for config in files for target in targets(OmegaConf.to_container(config))}
    for module in sorted({target.rpartition(".")[0] for target in named}):
        classes = [c for _, c in inspect.getmembers(importlib.import_module(module), inspect.isclass)]
        concrete = [c for c in classes if c.__module__ == module and not inspect.isabstract(c)]
        missing = [c.__name__ for c in concrete if not issubclass(c, tuple) and f"{module}.{c.__name__}" not in named]
        assert not missing, f"no YAML builds {missing} of {module}"


def targets(node: object) -> list[str]:
    """Every `_target_` in a node, however deep."""
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if "_target_" in node else []
    return own + list(itertools.chain(*map(targets, node.values())))
