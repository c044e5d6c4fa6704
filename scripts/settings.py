"""What a benchmark is told: `name=value` arguments, and the network that they mean."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dit.config.build import build as built
from dit.entry import CONFIGS, one_line_errors, options
from scripts.arguments import read as value_of

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16-true": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """`name=value` on the command line; every other name must begin with `net`."""

    net: str = "dit_s_2"  # a config of configs/net
    batch: int = 8
    frames: int = 1  # latent frames
    height: int = 32  # latents
    width: int = 32  # latents
    text_tokens: int = 64  # for a network that reads text; a quarter of the tokens of every other sample is padding
    per_frame: bool = False  # a noise level for each latent frame
    shapes: bool = False  # clips of several shapes up to this size: padding, buckets and packing (scripts/mixed.py)
    precision: str = "fp32"  # bf16: autocast, fp32 weights; bf16-true: bf16 weights, beside diffusers' class only
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    compile: bool = False
    optim: str = "adamw"  # configs of configs/optim for the network itself, such as adamw,muon; twins have AdamW
    twin: str = ""  # a published model, or all: ours and diffusers' with equal weights, a few blocks at full width
    twins: bool = True  # measure the reference networks too, where the shapes allow
    repeats: int = 10  # turns that count
    warmup: int = 2  # turns that do not
    threads: int = 0  # 0: torch's own choice


@dataclass(frozen=True)
class WholeSettings:
    """`name=value` on the command line, where `pipeline` is among the names."""

    pipeline: str = ""  # a published pipeline beside diffusers' own (scripts/twins/pipelines.py), or all
    steps: int = 4
    scale: float = 4.0  # of guidance, in the terms of diffusers' class
    depth: int = 2  # blocks of the network
    tokens: int = 512  # the smallest clip with as many is made, for each of two prompts
    precision: str = "fp32"  # bf16: weights and arithmetic of all parts, as users load them on a GPU
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    compile: bool = False  # block by block, both
    repeats: int = 5  # turns that count
    warmup: int = 1  # turns that do not
    threads: int = 0  # 0: torch's own choice


def parse(arguments: list[str]) -> tuple[Settings, list[str]]:
    """`name=value` arguments -> settings and Hydra overrides of the network."""
    overrides = [each for each in arguments if "=" in each and each.lstrip("+~").startswith(("net.", "net/"))]
    given = values([each for each in arguments if each not in overrides], Settings, "net.*, net/* and ")
    if given.get("twin") == "all":
        example_named("dit")  # says so without diffusers
    elif "twin" in given:
        example = example_named(given["twin"])
        # A user's own preset is measured as it is; sizes and overrides follow what is typed.
        overrides = ([] if "net" in given else [*example.overrides]) + overrides
        given = {**example.settings(), **given}
    settings = Settings(**given)
    check_device(settings.device)
    if settings.precision not in PRECISIONS:
        raise ValueError(f"precision={settings.precision} is none of {', '.join(PRECISIONS)}")
    if settings.precision == "bf16-true" and not settings.twin:
        raise ValueError("precision=bf16-true is for twin=NAME; a network that trains has precision=bf16")
    for group, names in (("net", [settings.net]), ("optim", settings.optim.split(","))):
        for name in names:
            if name not in options(group):
                raise ValueError(f"{group}={name} is not in configs/{group}; there are {', '.join(options(group))}")
    return settings, overrides


def parse_whole(arguments: list[str]) -> WholeSettings:
    """`name=value` arguments -> settings for whole pipelines. Raises ValueError for what cannot be, and without
    diffusers and transformers."""
    settings = WholeSettings(**values(arguments, WholeSettings))
    check_device(settings.device)
    if settings.precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={settings.precision} is none of fp32, bf16")
    try:
        from scripts.twins.pipelines import TWINS
    except ModuleNotFoundError as error:
        raise ValueError(f"pipeline= needs {error.name}: pip install -r requirements-dev.txt") from None
    if settings.pipeline not in (*TWINS, "all"):
        there = ", ".join(TWINS)
        raise ValueError(f"pipeline={settings.pipeline} is not a pipeline that is known; there are {there}, all")
    return settings


def values(arguments: list[str], kind: type, others: str = "") -> dict[str, Any]:
    """`name=value` arguments as the fields of a dataclass. others: in messages, what else there is."""
    types = {field.name: type(field.default) for field in fields(kind)}
    given: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"'{argument}' is not name=value; for example: net=dit_s_2 batch=8 net.depth=4")
        if name not in types:
            raise ValueError(f"unknown setting '{name}'; there are {others}{', '.join(types)}")
        given[name] = read(name, value, types[name])
    return given


def check_device(name: str) -> None:
    """Raises ValueError, in one line, for a device that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name} is no device; there are cpu, cuda, cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name}: torch sees no GPU here; device=cpu measures the CPU")


def run(main: Callable[[list[str]], None], about: str | None, *choices: type) -> None:
    """`main` with the arguments of the command line, or what --help says: `about`, and the fields of `choices`."""
    if {"-h", "--help"} & set(sys.argv):
        print(about)
        for kind in choices:
            said = [f"{field.name}={field.default}" for field in fields(kind)]
            print("  " + "\n  ".join(said) + "\n")
        return
    with one_line_errors():
        main(sys.argv[1:])


def example_named(name: str) -> Any:
    """What `twin=name` measures. Raises ValueError for a name that is not there, and without diffusers."""
    try:
        from scripts.twins.published import EXAMPLES
    except ModuleNotFoundError as error:
        raise ValueError(f"twin={name} needs {error.name}: pip install -r requirements-dev.txt") from None
    if name not in EXAMPLES:
        raise ValueError(f"twin={name} is not a published model that is known; there are {', '.join(EXAMPLES)}")
    return EXAMPLES[name]


def read(name: str, value: str, kind: type) -> Any:
    """The value of one setting. Counts are at least 1, but for `warmup`, `threads` and `reads`."""
    least = 0 if name in ("warmup", "threads", "reads") else 1
    if kind is int and (not value.isdigit() or int(value) < least):
        raise ValueError(f"{name}={value} must be a whole number of at least {least}")
    return value_of(name, value, kind.__name__)


def compose(settings: Settings, overrides: list[str]) -> DictConfig:
    """The network's config."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(f"net/{settings.net}", overrides=overrides).net


def optimizer(name: str, net: nn.Module) -> torch.optim.Optimizer:
    """That of configs/optim/`name`, over a network's parameters."""
    make = built(OmegaConf.to_container(OmegaConf.load(CONFIGS / "optim" / f"{name}.yaml")), "optim")
    return make(net)  # type: ignore[no-any-return]


def build(config: DictConfig, kernel: str | None = None) -> nn.Module:
    """The network; `kernel` names another config of configs/net/kernel."""
    if kernel is not None:
        config = OmegaConf.merge(config, {})  # a copy
        config.kernel = OmegaConf.load(CONFIGS / "net" / "kernel" / f"{kernel}.yaml")
    return built(OmegaConf.to_container(config, resolve=True), "net")
