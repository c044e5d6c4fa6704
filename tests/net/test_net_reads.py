"""Parts of the network declare the keys of `cond` that they read: all of them, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from dit.interop.presets import CONFIGS, compose

FRAMES, SIZE = 3, 8
TINY = sorted(path.stem for path in (CONFIGS / "net").glob("*_tiny.yaml"))
CHOICES = {
    "nothing": [],
    "labels and rates": ["net/label=classes", "net/fps=sinusoid"],
    "shared rates": ["net/modulation=adaln_single_fps"],
    "timed": ["net/position=timed_rope_tables"],
    "seconds": ["net/position=fractional"],
    "images": ["net/text=cross_image"],
}


class Told(Mapping[str, Tensor]):
    """A `cond` that remembers which keys somebody asked for."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values_of, self.asked = values, set[str]()

    def __getitem__(self, key: str) -> Tensor:
        self.asked.add(key)
        return self.values_of[key]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("who goes through all keys reads more than it declares")

    def __len__(self) -> int:
        return len(self.values_of)


def value(net: Any, key: str) -> Tensor:
    """What a required entry of two clips may look like."""
    if key == "text":
        return torch.zeros(2, getattr(getattr(net.text, "embed", None), "length", None) or 5, net.text.text_width)
    if key == "pooled":
        return torch.zeros(2, net.vectors["pooled"].hidden.in_features)
    if key in net.concat_channels:
        return torch.zeros(2, net.concat_channels[key], FRAMES, SIZE, SIZE)
    return torch.zeros(2, dtype=torch.int64 if key == "label" else torch.float32)


def check(net: Any) -> None:
    told = Told({key: value(net, key) for key in net.reads.required})
    with torch.no_grad():
        net(torch.zeros(2, net.in_channels, FRAMES, SIZE, SIZE), torch.zeros(2, 1), told)
    assert told.asked == {*net.reads.required, *net.reads.optional}
    for key in net.reads.required:
        rest = {name: each for name, each in told.values_of.items() if name != key}
        with pytest.raises(ValueError, match=f"needs cond\\['{key}'\\]"):
            net(torch.zeros(2, net.in_channels, FRAMES, SIZE, SIZE), torch.zeros(2, 1), rest)


def built(preset: str, *overrides: str) -> Any:
    with torch.device("meta"):
        net = instantiate(compose(preset, ["net/kernel=sdpa", "net.patch=[1,4,4]", *overrides]), _convert_="all")
    return net.to_empty(device="cpu")


@pytest.mark.parametrize("preset", TINY)
def test_published_networks_declare_what_they_read(preset: str) -> None:
    check(built(preset))


@pytest.mark.parametrize("overrides", CHOICES.values(), ids=CHOICES)
def test_choices_declare_what_they_read(overrides: list[str]) -> None:
    check(built("demo", "net.width=48", "net.heads=2", "net.depth=1", *overrides))


def test_an_undeclared_key_is_noticed() -> None:
    net = built("demo", "net.width=48", "net.heads=2", "net.depth=1", "net/position=timed_rope")
    net.position.reads = type(net.reads)()
    with pytest.raises(AssertionError):
        check(net)
