"""The one comparison that every family goes through: outputs, gradients, round trip."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit.interop import call_like_diffusers, from_diffusers, to_diffusers
from dit.interop.diffusers import family_named, recognise
from dit.interop.weights import Copies, to_theirs
from scripts.twins import examples
from scripts.twins.exact import exact
from tests.interop.reference import gradients, randomise, relative


def build(cls: type[nn.Module], config: dict[str, Any], dtype: torch.dtype = torch.float64) -> nn.Module:
    """A random model of a diffusers class, in true float64 for that dtype."""
    if dtype is not torch.float64:
        return randomise(cls(**config).to(dtype))
    with exact():
        return randomise(cls(**config).to(dtype))


def sample(model: nn.Module, arguments: dict[str, Any]) -> Tensor:
    """The reference's output."""
    with exact() if next(model.parameters()).dtype is torch.float64 else nullcontext():
        out = model(**arguments, return_dict=False)
    return out if isinstance(out, Tensor) else out[0]  # most give a tuple


def example(model: nn.Module, size: tuple[int, int, int], text_tokens: int, seed: int = 3) -> dict[str, Any]:
    """Random arguments of the reference's `forward` for two samples, in its dtype."""
    family = family_named(type(model).__name__)
    draw = examples.Draw(torch.Generator().manual_seed(seed), next(model.parameters()).dtype)
    return examples.example(family, family.settings(plain(model)), 2, size, text_tokens, draw)


def plain(model: nn.Module) -> dict[str, Any]:
    """The settings of a reference model, lists for tuples as in config.json."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in dict(model.config).items() if key[0] != "_"}


def assert_equal(model: nn.Module, arguments: dict[str, Any]) -> None:
    """Our network computes what `model` computes: output, gradients to every parameter and input but the timestep."""
    double = next(model.parameters()).dtype is torch.float64
    near, near_gradient = (1e-9, 1e-7) if double else (1e-4, 1e-2)
    net = from_diffusers(model)
    inputs = [name for name, v in arguments.items() if name != "timestep" and isinstance(v, Tensor)]
    inputs = [name for name in inputs if arguments[name].is_floating_point()]
    leaves = [arguments[name].requires_grad_() for name in inputs]
    theirs = sample(model, arguments)
    ours = call_like_diffusers(net, **arguments)
    assert relative(ours, theirs) < near

    names = list(dict(model.named_parameters()))
    wanted = gradients(theirs, [*leaves, *model.parameters()])
    found = gradients(ours, [*leaves, *net.parameters()])
    for name, mine, other in zip(inputs, found, wanted, strict=False):
        assert relative(mine, other) < near_gradient, name
    mine = dict(zip(dict(net.named_parameters()), found[len(leaves) :], strict=True))
    links = recognise(net).links(net)
    written, others = to_theirs(links, mine), dict(zip(names, wanted[len(leaves) :], strict=True))
    for link in links:
        if isinstance(link.change, Copies):  # one tensor of ours, used as often as theirs has copies: gradients add up
            total = torch.stack([others[name] for name in link.theirs]).sum(dim=0)
            others |= dict.fromkeys(link.theirs, total)
    for name, other in others.items():
        scale = max(other.abs().max().item(), 1e-3)
        assert (written[name] - other).abs().max().item() / scale < near_gradient, name


def assert_notices(model: nn.Module, arguments: dict[str, Any], skip: tuple[str, ...] = ()) -> None:
    """Each parameter matters to the comparison: with any one spoiled, the outputs differ."""
    net = from_diffusers(model)
    with torch.no_grad():
        right = call_like_diffusers(net, **arguments)
        for name, parameter in net.named_parameters():
            if name.startswith(skip) and skip:
                continue
            kept = parameter.data.clone()
            parameter.data = kept + 0.3 * torch.randn(kept.shape, dtype=kept.dtype, generator=torch.manual_seed(1))
            assert relative(call_like_diffusers(net, **arguments), right) > 1e-7, f"{name} does nothing"
            parameter.data = kept


def assert_round_trip(model: nn.Module, folder: Path) -> None:
    """diffusers -> folder in shards -> ours -> folder -> diffusers: the same bits and settings. In float32, since
    diffusers loads some modules in that whatever was saved."""
    model = model.to(torch.float32)
    model.save_pretrained(folder / "saved", max_shard_size="200KB")
    net = from_diffusers(folder / "saved")
    to_diffusers(net, folder / "written")
    again = type(model).from_pretrained(folder / "written")
    family = family_named(type(model).__name__)
    assert family.settings(plain(model)) == family.settings(family.config(net))
    wanted = model.state_dict()
    assert wanted.keys() == again.state_dict().keys()
    assert all(torch.equal(value, wanted[key]) for key, value in again.state_dict().items())
