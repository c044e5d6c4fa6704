"""Which signals a run has: those that its config names, and the built-in ones that its parts imply."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from dit.signals.base import Signal
from dit.signals.fps import FPS
from dit.signals.label import Label
from dit.signals.text import Text

BUILT_IN: Mapping[str, type[Signal]] = {"text": Text, "label": Label, "fps": FPS}


def implied(net: nn.Module, encoder: nn.Module | None) -> dict[str, dict[str, Any]]:
    """Name -> config node of each built-in signal of which the network reads an entry, text only with an encoder.

    That is what a config without `signals` means. A network of another package that does not declare what it reads gets
    all of them.
    """
    reads: Any = getattr(net, "reads", None)
    there = {"text": encoder is not None}
    if reads is None:
        there["label"] = getattr(net, "num_classes", None) is not None
        chosen = [name for name in BUILT_IN if there.get(name, True)]
    else:
        read = {*reads.required, *reads.optional}
        chosen = [name for name, kind in BUILT_IN.items() if there.get(name, True) and read & kind.entries.keys()]
    return {name: node(BUILT_IN[name]) for name in chosen}


def completed(given: Mapping[str, Any] | None, net: nn.Module, encoder: nn.Module | None) -> dict[str, Any]:
    """The signals of a config, and the implied ones of which it says nothing; `null` leaves one out.

    Where another signal of the config makes the entries of a built-in one, `signals.<name>=null` makes room for it.
    """
    given = given or {}
    more = {name: each for name, each in implied(net, encoder).items() if name not in given}
    return {**more, **{name: each for name, each in given.items() if each is not None}}


def node(kind: type[Signal]) -> dict[str, Any]:
    """A signal without settings as the config that builds it."""
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", "_partial_": True}


def check_reads(signals: Mapping[str, Signal], net: nn.Module, elsewhere: Collection[str]) -> None:
    """Holds what the signals make against what the parts of the network declare to read.

    elsewhere: entries of `cond` that something else makes.

    Raises:
        ValueError: an entry that the network needs and nobody makes, a signal of which nobody reads anything, or two
            signals that make the same entry; in one line.
    """
    reads: Any = net.reads
    read = {*reads.required, *reads.optional}
    maker: dict[str, str] = {}
    for name, signal in signals.items():
        for key in signal.entries:
            if key in maker:
                raise ValueError(
                    f"signals.{maker[key]} and signals.{name} both make cond[{key!r}]: signals.{maker[key]}=null"
                )
            maker[key] = name
        if not read & signal.entries.keys():
            raise ValueError(
                f"signals.{name} makes {' and '.join(signal.entries)}, which no part of this network reads (it reads"
                f" {', '.join(sorted(read)) or 'nothing'}): give the network a part that does, or signals.{name}=null"
            )
    missing = [key for key in reads.required if key not in maker and key not in elsewhere]
    if missing:
        key = missing[0]
        raise ValueError(f"this network needs cond[{key!r}], which no signal of this run makes{_way(key)}")


def _way(key: str) -> str:
    """What makes an entry, and what does without it."""
    if key in Text.entries:
        part = "net/pooled=none" if key == "pooled" else "net/text=none"
        return f": a text encoder does (text=bytes), and {part} is without it"
    name = next((name for name, kind in BUILT_IN.items() if key in kind.entries), None)
    made = f"signals={name} makes it" if name else "add one that does to signals"
    return f": {made}, or net/{key}=none is without it"
