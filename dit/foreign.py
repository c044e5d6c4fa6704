"""Configs from elsewhere: plain data, of which each part may build classes of one kind and no others.

A checkpoint, a folder of weights or a run directory may come from a stranger, and its config names what is to be built.
So it never reaches Hydra or OmegaConf, which would resolve interpolations and call any function. `build` walks plain
containers itself, under three rules:

1. Data is plain: numbers, texts, lists and mappings. A text with `${` is refused.
2. A `_target_` is a class, never a function, and is defined where classes of the place's `Kind` are.
3. An argument gets what its constructor's annotation asks for (`dit.config.kinds`): a part only where one is wanted,
   and one of that class; a value in its range.

A config that passes the first two is built by the same builder as a user's own config, to which they do not apply.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from torch import nn

from dit.config.build import built
from dit.config.kinds import PARTIAL, TARGET, Misfit, fitted, resolve

MOST = 10_000  # values in a config; the largest of ours has some hundreds
DEEPEST = 50  # containers within one another; ours have up to 7
LARGEST = 2**63  # no whole number is that far from 0
SHOWN, LONGEST = 60, 300  # characters of a value in a message, and of what others say of it
DOTTED = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")  # nothing private
TORCH = "torch.nn"
# Allowed wherever parts of a network are: each is one layer, and as large as its arguments say.
LAYERS = tuple(f"{TORCH}.{name}" for name in ("GELU", "Identity", "LayerNorm", "Linear", "ReLU", "RMSNorm", "SiLU"))
PLACED = ("device", "dtype")  # arguments of layers that would take memory where none is to be taken
COUNTS = ("depth", "encoder_blocks", "decoder_blocks")  # arguments that count blocks, or lists of such counts
KNOWN = ("dit", "data", "torch", TORCH)  # `trusted` cannot name these: `Kind` says which of their classes are built


class Refused(ValueError):
    """A config from elsewhere that is not built. One line, which names the key."""


@dataclass(frozen=True)
class Kind:
    """What a part of a config may build.

    base: class of the thing itself, a protocol that it has, or Any. homes: the packages, modules or classes in which it
    and its parts are defined.
    """

    base: Any
    homes: tuple[str, ...]

    def __init__(self, base: Any, *homes: str) -> None:
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "homes", homes)


def build(node: Any, kind: Kind, key: str, trusted: Sequence[str] = ()) -> Any:
    """The object that a config node from elsewhere describes.

    node: plain containers. Beside arguments it may hold `_target_`, `_partial_` and `_convert_: all`, as Hydra reads
    them. key: its place in the config, for messages. trusted: packages of the user, all of whose classes may be built.

    Raises Refused, in one line that names the key.
    """
    check(node, kind, key, trusted)
    try:
        return built(fitted(node, kind.base, key))
    except Misfit as error:
        raise Refused(_printable(str(error))) from None
    except Exception as error:  # the values are anyone's, so whatever they break is a mistake of the file
        raise Refused(f"{key} cannot be built: {_printable(str(error) or type(error).__name__)}") from error


def check(node: Any, kind: Kind, key: str, trusted: Sequence[str] = ()) -> None:
    """Raises Refused for a node that `build` would refuse for what it names; builds nothing. For what is taken out of a
    file into a config of the user's own, which is built later."""
    check_plain(node, key)
    if not isinstance(node, dict) or TARGET not in node:
        raise Refused(f"{key} is {shown(node)}, which names no class to build ({TARGET})")
    _Classes(kind, trusted).check(node, key)


def check_counts(node: Any, key: str, tensors: int) -> None:
    """Raises Refused for more blocks than a file holds tensors: building them would take hours."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if _is_list(node) else ():
        for count in value if _is_list(value) else [value]:
            if name in COUNTS and isinstance(count, (int, float)) and count > tensors:
                raise Refused(f"{below(key, name)}={shown(value)}, but the file holds {tensors} tensors")
        check_counts(value, below(key, name), tensors)


def check_value(value: Any, key: str) -> None:
    """Raises Refused for anything but plain data in which nothing is named that would be built."""
    check_plain(value, key)
    _NOTHING.check(value, key)


def read_yaml(file: Path) -> dict[str, Any]:
    """A mapping from a YAML file: plain data, read and no more. Raises ValueError, naming the file, when it is none."""
    try:
        text = file.read_text(encoding="utf-8")
    except ValueError as error:  # bytes that are no text
        raise ValueError(f"{file} is not YAML ({error})") from None
    return plain_yaml(text, str(file))


def plain_yaml(text: str, named: str) -> dict[str, Any]:
    """The same from a text. named: where it is from, for messages."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: dates and numbers that cannot be
        raise ValueError(f"{named} is not YAML ({' '.join(str(error).split())[:150]})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{named} holds no mapping")
    try:
        check_plain(content, "", free_text=True)
    except Refused as error:
        raise ValueError(f"{named}: {error}") from None
    return content


def check_plain(value: Any, key: str, free_text: bool = False) -> None:
    """Raises Refused for anything but plain data, and for more of it than a config has.

    free_text: whether texts may hold what would be an interpolation, where nothing is built of them.
    """
    left = MOST

    def visit(value: Any, path: tuple[Any, ...]) -> None:
        nonlocal left
        left -= 1
        if left < 0 or len(path) > DEEPEST:
            raise Refused(f"{key or 'it'} is no config: it has more than {MOST} values, or {DEEPEST} levels")
        if type(value) in (dict, list, tuple):
            for name, each in value.items() if type(value) is dict else enumerate(value):
                if type(name) not in (str, int):
                    raise Refused(f"{joined(key, path)} has the key {shown(name)}, which is no text")
                visit(name, path)
                visit(each, (*path, name))
        elif type(value) is str:
            if "${" in value and not free_text:
                place = joined(key, path)
                raise Refused(f"{place} is {shown(value)}: interpolations are not resolved in files from elsewhere")
        elif type(value) is int and abs(value) >= LARGEST:
            raise Refused(f"{joined(key, path)} is {shown(value)}, more than can be counted")
        elif value is not None and type(value) not in (bool, int, float):
            raise Refused(f"{joined(key, path)} is of type {type(value).__name__}: configs hold plain values alone")

    visit(value, ())


def joined(key: str, path: Sequence[Any]) -> str:
    """The key of a value that is some steps below another key."""
    return functools.reduce(below, path, key)


def below(key: str, name: Any) -> str:
    """The key of an entry, for messages: what cannot be printed as it is, is shown as Python would write it."""
    text = str(name) if not isinstance(name, str) or re.fullmatch(r"[\w\-]+", name) else shown(name)
    return f"{key}.{text}" if key else text


def shown(value: Any) -> str:
    """A value in a message: one short line, without control characters."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class _Classes:
    """Which classes a part of a config may name."""

    def __init__(self, kind: Kind, trusted: Sequence[str]) -> None:
        self.layers = LAYERS if isinstance(kind.base, type) and issubclass(kind.base, nn.Module) else ()
        own = (name.rstrip(".") for name in trusted)
        self.homes = (*kind.homes, *(name for name in own if name and name not in KNOWN))

    def check(self, value: Any, key: str) -> None:
        """Raises Refused where a node, at any depth, names what may not be built, or says how by other means than
        `_partial_`."""
        if not isinstance(value, (dict, list, tuple)):
            return
        if isinstance(value, dict) and TARGET in value:
            self.check_target(value[TARGET], below(key, TARGET))
            for name, each in value.items():
                if str(name).startswith("_") and not _is_special(name, each):
                    known = f"{TARGET}, {PARTIAL} (true or false) and _convert_ (all)"
                    raise Refused(
                        f"{below(key, name)}={shown(each)} is refused: beside arguments, a file holds {known}"
                    )
                if value[TARGET] in self.layers and name in PLACED:
                    raise Refused(f"{below(key, name)}={shown(each)} is refused: no file says where a layer lies")
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            self.check(each, below(key, name))

    def check_target(self, target: Any, key: str) -> None:
        if not isinstance(target, str) or not DOTTED.fullmatch(target):
            raise Refused(f"{key} is {shown(target)}, which is no dotted name of a class")
        if target in self.layers:
            return
        if not _within(target, self.homes):
            raise Refused(f"{key} asks for {shown(target)[1:-1]}: {self._allowed(target)}")
        module, _, name = target.rpartition(".")
        try:
            found = vars(importlib.import_module(module)).get(name)
        except ImportError:
            found = None
        if found is None:
            raise Refused(f"{key} asks for {target}, which is not in this code")
        if not isinstance(found, type):
            raise Refused(f"{key} asks for {target}, which is no class: it is not run")
        home = f"{found.__module__}.{found.__qualname__}"
        if not _within(home, self.homes):  # what a module merely imports is not its own
            raise Refused(f"{key} asks for {target}, which is {home}: {self._allowed(home)}")
        if resolve(target) is not found:  # the same words, read in two ways
            raise Refused(f"{key} asks for {target}, which is more than one thing: it is not run")

    def _allowed(self, target: str) -> str:
        if not self.homes:
            return "nothing is built there"
        own = target.partition(".")[0]
        layers = [f"{TORCH} ({', '.join(name.rpartition('.')[2] for name in self.layers)})"] if self.layers else []
        homes = " or ".join(dict.fromkeys([*self.homes, *layers]))
        hint = "" if own in KNOWN else f". If you trust the file, and have that package: trusted=[{own}]"
        return f"only classes of {homes} belong there, so it is not run{hint}"


_NOTHING = _Classes(Kind(None), ())


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _within(name: str, homes: Sequence[str]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in homes)


def _is_special(name: Any, value: Any) -> bool:
    """Whether a key of a node, which names no argument, may be there."""
    return name == TARGET or (name == PARTIAL and isinstance(value, bool)) or (name == "_convert_" and value == "all")


def _printable(text: str) -> str:
    """One short line of what may hold anything."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "?" for each in line[:LONGEST])
