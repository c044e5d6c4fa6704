"""Configs from elsewhere: plain data, from which nothing is built but classes of the kind that belongs to a place.

A checkpoint, a folder of weights or a run directory may come from a stranger, and its config names what is to be built.
So it never reaches Hydra or OmegaConf, which would resolve interpolations and call any function. `build` walks plain
containers itself, under three rules:

1. Data is plain: numbers, texts, lists and mappings. A text with `${` is refused.
2. A `_target_` is a class, never a function, and is defined where classes of the place's `Kind` are.
3. An argument gets what its constructor's annotation asks for: a part only where one is wanted, and one of that class.

For a user's own configs, which run code by design, there is `hydra.utils.instantiate`; where a config passes these
rules both build the same.
"""

from __future__ import annotations

import collections.abc
import functools
import importlib
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from torch import nn

MOST = 10_000  # values in a config; the largest of ours has some hundreds
DEEPEST = 50  # containers within one another; ours have up to 7
SHOWN = 60  # characters of a value in a message
TARGET = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")  # nothing private
LAYERS = "torch.nn"  # stand wherever parts of a network do
KNOWN = ("dit", "data", "torch", LAYERS)  # to trust one of these says nothing: their kinds say what of them is built


class Refused(ValueError):
    """A config from elsewhere that is not built. One line, which names the key."""


@dataclass(frozen=True)
class Kind:
    """What belongs to a place of a config.

    base: class of the thing itself, a protocol that it has, or Any. home: the package, module or class in which it and
    its parts are defined.
    """

    base: Any
    home: str


def build(node: Any, kind: Kind, key: str, trusted: Sequence[str] = ()) -> Any:
    """The object that a config node from elsewhere describes.

    node: plain containers. Beside arguments it may hold `_target_`, `_partial_` and `_convert_: all`, as Hydra reads
    them. key: its place in the config, for messages. trusted: packages of the user, all of whose classes may be built.

    Raises Refused, in one line that names the key; the constructors' own errors too.
    """
    check_plain(node, key)
    return _Builder(kind, tuple(name.rstrip(".") for name in trusted)).part(node, key, kind.base)


def read_yaml(file: Path) -> dict[str, Any]:
    """A mapping from a YAML file: plain data, read and no more. Raises ValueError, naming the file, when it is none."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: dates and numbers that cannot be, bytes
        raise ValueError(f"{file} is not YAML ({' '.join(str(error).split())[:150]})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no mapping")
    try:
        check_plain(content, "", free_text=True)
    except Refused as error:
        raise ValueError(f"{file}: {error}") from None
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


class _Builder:
    def __init__(self, kind: Kind, trusted: tuple[str, ...]) -> None:
        self.kind = kind
        self.trusted = tuple(name for name in trusted if name and name not in KNOWN)
        layers = (LAYERS,) if isinstance(kind.base, type) and issubclass(kind.base, nn.Module) else ()
        self.homes = (kind.home, *layers, *self.trusted)

    def part(self, node: Any, key: str, hint: Any) -> Any:
        """What a node with a `_target_` describes, where `hint` is wanted."""
        if not isinstance(node, dict) or "_target_" not in node:
            raise Refused(f"{key} is {shown(node)}, which names no class to build (_target_)")
        found = self.named(node["_target_"], f"{key}._target_")
        deferred, arguments = self.arguments(found, node, key)
        if not _suits(found, deferred, hint):
            wanted = f"a call of {_name(hint)}" if _is_callable(hint) else _name(hint)
            raise Refused(f"{key} is {'a call of ' * deferred}{_name(found)}, where {wanted} is wanted")
        if deferred:
            return functools.partial(found, **arguments)
        try:
            return found(**arguments)
        except Refused:
            raise
        except Exception as error:  # the values are anyone's, so whatever they break is a mistake of the file
            said = " ".join(str(error).split()) or type(error).__name__
            said = "".join(each if each.isprintable() else "?" for each in said[:300])
            raise Refused(f"{key} cannot be built: {said}") from error

    def named(self, target: Any, key: str) -> type:
        """The class that a target names."""
        if not isinstance(target, str) or not TARGET.fullmatch(target):
            raise Refused(f"{key} is {shown(target)}, which is no dotted name of a class")
        if not _within(target, self.homes):
            raise Refused(f"{key} asks for {target}: {self._allowed(target)}")
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
        layer = _within(home, (LAYERS,)) and not issubclass(found, nn.Module)
        if layer or not _within(home, self.homes):  # what a module merely imports is not its own
            raise Refused(f"{key} asks for {target}, which is {home}: {self._allowed(home)}")
        return found

    def _allowed(self, target: str) -> str:
        own = target.partition(".")[0]
        homes = " or ".join(dict.fromkeys(self.homes))
        hint = "" if own in KNOWN else f". If you trust the file, and have that package: trusted=[{own}]"
        return f"only classes of {homes} belong there, so it is not run{hint}"

    def arguments(self, found: type, node: Mapping[Any, Any], key: str) -> tuple[bool, dict[str, Any]]:
        """(whether the call is left to the owner, arguments) of a node."""
        ours = _within(found.__module__, ("dit", "data"))
        names = set(inspect.signature(found).parameters)
        hints = _hints(found) if ours else {}
        deferred, given = False, {}
        for name, value in node.items():
            if name == "_partial_" and isinstance(value, bool):
                deferred = value
            elif (name == "_convert_" and value == "all") or name == "_target_":
                continue
            elif not isinstance(name, str) or name.startswith("_") or (ours and name not in names):
                raise Refused(f"{below(key, name)}={shown(value)} is no argument of {_name(found)}")
            else:
                given[name] = self.value(value, below(key, name), hints.get(name, Any))
        return deferred, given

    def value(self, value: Any, key: str, hint: Any) -> Any:
        """A value of a config, where `hint` is wanted; parts in it are built."""
        if isinstance(value, dict) and "_target_" in value:
            wanted = next((each for each in _choices(hint) if each is Any or _is_part(each)), None)
            if wanted is None:
                raise Refused(
                    f"{key} asks for {shown(value['_target_'])}, where {_name(hint)} is wanted: it is not run"
                )
            return self.part(value, key, wanted)
        if not any(_fits(value, each) for each in _choices(hint)):
            raise Refused(f"{key}={shown(value)} is not {_name(hint)}")
        inner = next((each for each in _choices(hint) if _fits(value, each)), Any)
        if isinstance(value, dict):
            return {name: self.value(each, below(key, name), _inside(inner)) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(each, below(key, index), _inside(inner)) for index, each in enumerate(value)]
        return value


def _within(name: str, homes: Sequence[str]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in homes)


@functools.cache
def _hints(found: type) -> dict[str, Any]:
    return typing.get_type_hints(found.__init__)  # type: ignore[misc]


def _choices(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _is_callable(hint: Any) -> bool:
    return typing.get_origin(hint) is collections.abc.Callable


def _is_part(hint: Any) -> bool:
    """Whether an annotation asks for an object, or a call, and not for plain data."""
    is_class = isinstance(hint, type) and hint is not Any and not typing.get_args(hint)
    return _is_callable(hint) or (is_class and hint not in PLAIN)


def _is_protocol(hint: Any) -> bool:
    return isinstance(hint, type) and getattr(hint, "_is_protocol", False)


NUMBERS = (bool, int, float)
PLAIN = (*NUMBERS, str, list, tuple, dict, type(None))
CONTAINERS: dict[Any, tuple[type, ...]] = {
    list: (list, tuple),
    tuple: (list, tuple),
    collections.abc.Sequence: (list, tuple),
    dict: (dict,),
    collections.abc.Mapping: (dict,),
}


def _fits(value: Any, hint: Any) -> bool:
    """Whether plain data is of the sort that an annotation wants: a number is any number."""
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    plain = typing.get_origin(hint) or hint
    if plain in CONTAINERS:
        return isinstance(value, CONTAINERS[plain])
    if plain in NUMBERS:
        return isinstance(value, NUMBERS)
    if plain in (str, type(None)):
        return isinstance(value, plain)
    return not _is_part(hint)  # anything else that annotations can say does not concern parts


def _inside(hint: Any) -> Any:
    """The annotation of what a list or a mapping holds."""
    inner = [each for each in typing.get_args(hint) if each is not Ellipsis]
    return inner[-1] if inner and (typing.get_origin(hint) in CONTAINERS) else Any


def _suits(found: type, deferred: bool, hint: Any) -> bool:
    """Whether a class, or a call of it that its owner makes, is what an annotation wants."""
    if hint is Any:
        return True
    if _is_callable(hint):
        made = typing.get_args(hint)[-1]
        if made in (None, type(None)):
            return not deferred and "__call__" in dir(found)  # it is called for what it does
        return deferred and _is(found, made)
    return not deferred and _is(found, hint)


def _is(found: type, wanted: Any) -> bool:
    """Subclasses, for classes; for protocols classes that have their methods."""
    if _is_protocol(wanted):
        methods = (name for name, each in vars(wanted).items() if inspect.isfunction(each) and not _is_of_typing(name))
        return not _is_protocol(found) and all(callable(getattr(found, name, None)) for name in methods)
    return not isinstance(wanted, type) or issubclass(found, wanted)


def _is_of_typing(name: str) -> bool:
    return name in ("__init__", "__subclasshook__")


def _name(hint: Any) -> str:
    if _is_callable(hint):
        return _name(typing.get_args(hint)[-1])
    if hint in (None, type(None)):
        return "null"
    if len(_choices(hint)) > 1:
        return " or ".join(_name(each) for each in _choices(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
