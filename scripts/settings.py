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
    precision: str = "fp32"  # bf16: autocast, fp32 weights; bf16-true: bf16 weights, beside diffusers' class only
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    compile: bool = False
    optim: str = "adamw"  # configs of configs/optim for the network itself, such as adamw,muon; twins have AdamW
    twin: str = ""  # a published model, or all: ours and diffusers' with equal weights, a few blocks at full width
    twins: bool = True  # measure the reference networks too, where the shapes allow
    repeats: int = 10  # turns that count
    warmup: int = 2  # turns that do not
    threads: int = 0  # 0: torch's own choice


def parse(arguments: list[str]) -> tuple[Settings, list[str]]:
    """`name=value` arguments -> settings and Hydra overrides of the network."""
    types = {field.name: type(field.default) for field in fields(Settings)}
    given: dict[str, Any] = {}
    overrides: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"'{argument}' is not name=value; for example: net=dit_s_2 batch=8 net.depth=4")
        if name.lstrip("+~").startswith(("net.", "net/")):
            overrides.append(argument)
        elif name in types:
            given[name] = read(name, value, types[name])
        else:
            raise ValueError(f"unknown setting '{name}'; there are net.*, net/* and {', '.join(types)}")
    if given.get("twin") == "all":
        example_named("dit")  # says so without diffusers
    elif "twin" in given:
        example = example_named(given["twin"])
        # A user's own preset is measured as it is; sizes and overrides follow what is typed.
        overrides = ([] if "net" in given else [*example.overrides]) + overrides
        given = {**example.settings(), **given}
    settings = Settings(**given)
    try:
        device = torch.device(settings.device)
    except RuntimeError:
        raise ValueError(f"device={settings.device} is no device; there are cpu, cuda, cuda:1") from None
    if settings.precision not in PRECISIONS:
        raise ValueError(f"precision={settings.precision} is none of {', '.join(PRECISIONS)}")
    if settings.precision == "bf16-true" and not settings.twin:
        raise ValueError("precision=bf16-true is for twin=NAME; a network that trains has precision=bf16")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={settings.device}: torch sees no GPU here; device=cpu measures the CPU")
    for group, names in (("net", [settings.net]), ("optim", settings.optim.split(","))):
        for name in names:
            if name not in options(group):
                raise ValueError(f"{group}={name} is not in configs/{group}; there are {', '.join(options(group))}")
    return settings, overrides


def run(main: Callable[[list[str]], None], about: str | None, choices: type) -> None:
    """`main` with the arguments of the command line, or what --help says: `about`, and the fields of `choices`."""
    if {"-h", "--help"} & set(sys.argv):
        print(about)
        for field in fields(choices):
            print(f"  {field.name}={field.default:g}" if field.type == "float" else f"  {field.name}={field.default}")
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
    """The value of one setting. Counts are at least 1, but for `warmup` and `threads`."""
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{name}={value} must be true or false")
        return value.lower() == "true"
    if kind is int:
        least = 0 if name in ("warmup", "threads") else 1
        if not value.isdigit() or int(value) < least:
            raise ValueError(f"{name}={value} must be a whole number of at least {least}")
        return int(value)
    return value


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
