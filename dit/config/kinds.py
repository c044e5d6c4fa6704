"""Values of a config against the annotations of what they are for: types, ranges, and the names of arguments.

What an argument may be stands in the constructor's signature alone. `fitted` refuses a value that the annotation does
not allow, and converts what YAML and a shell do not tell apart: `1e4` to a whole number, `5` to a name, a list to a
tuple.
"""

from __future__ import annotations

import collections.abc
import difflib
import importlib
import inspect
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from dit.config.limits import Range
from dit.config.of_init import PLACES

TARGET, PARTIAL = "_target_", "_partial_"
SPECIAL = (TARGET, PARTIAL, "_convert_", "_recursive_")  # of a node, not of what it builds
LARGEST = 2**63  # what torch counts sizes with
NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
LISTS = (list, tuple, collections.abc.Sequence)
MAPPINGS = (dict, collections.abc.Mapping)
OF_TYPING = ("__init__", "__subclasshook__")  # what `Protocol` itself puts into a class


class Misfit(ValueError):
    """A value that an argument does not take. `path` says which one, as the command line writes it."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}{why}" if path else why.lstrip("=: "))
        self.path, self.why = path, why


def fitted(value: Any, hint: Any = Any, path: str = "") -> Any:
    """`value` as an argument annotated with `hint` takes it: itself, but for the spellings named above.

    Args:
        value: plain containers and scalars; a mapping with `_target_` is held against what it builds, at any depth.
        hint: an annotation. Classes and callables stand for any node that builds one.
        path: of the value in the config, for the message.

    Raises:
        Misfit: a value of another type, outside its range, or an argument that is missing or does not exist.
    """
    if isinstance(value, Mapping) and str(value.get(TARGET)) in PLACES:
        return dict(value)  # fits wherever it stands: what it stands for is not known yet
    if hint is Any or isinstance(hint, typing.TypeVar):
        return _anything(value, path)
    options = _alternatives(hint)
    for option in options:
        if _is(value, option):
            return _inside(value, option, path)
    for option in options:
        if (converted := _converted(value, option)) is not None:
            return _inside(converted, option, path)
    if isinstance(value, Mapping) and TARGET in value:
        name = str(value[TARGET]).rpartition(".")[2]
        made = f"a call of {name} ({PARTIAL}: true)" if value.get(PARTIAL) else f"a {name}"
        raise Misfit(path, f" would be {made}, which does not go there; {_wanted(options)} does")
    raise Misfit(path, f"={_shown(value)} is not {_wanted(options)}")


def arguments(target: str, partial: bool) -> dict[str, tuple[Any, bool]] | None:
    """Argument -> (annotation, whether it must be given) of what a node builds; None where it takes any name.

    A partial node is finished by its owner, who gives the positional arguments.
    """
    built = resolve(target)
    try:
        hints = typing.get_type_hints(_called(built), include_extras=True)
        parameters = inspect.signature(built).parameters.values()
    except Exception:  # of a library whose annotations cannot be read: it is not ours to check
        return None
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return None
    mine = [p for p in parameters if p.kind is p.KEYWORD_ONLY or (p.kind is p.POSITIONAL_OR_KEYWORD and not partial)]
    return {p.name: (hints.get(p.name, Any), p.default is p.empty) for p in mine}


@cache
def resolve(target: str) -> Any:
    """The class or function of a `_target_`. ValueError when there is none of that name, or it cannot be imported."""
    module, *names = target.split(".")
    try:
        found = importlib.import_module(module)
        for name in names:
            module = f"{module}.{name}"
            if not hasattr(found, name):
                importlib.import_module(module)
            found = getattr(found, name)
    except Exception as error:  # to import is to run a module, which may raise anything
        raise ValueError(f"{TARGET}: {target} is not there to be built ({error or type(error).__name__})") from error
    return found


def _called(built: Any) -> Any:
    return built.__init__ if isinstance(built, type) else built  # type: ignore[misc]


def _node(node: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A mapping with `_target_`, its arguments fitted."""
    if not isinstance(node.get(PARTIAL, False), bool):
        raise Misfit(_join(path, PARTIAL), f"={_shown(node[PARTIAL])} is not true or false")
    wanted = arguments(str(node[TARGET]), bool(node.get(PARTIAL)))
    if wanted is None:
        return {key: _anything(value, _join(path, key)) for key, value in node.items()}
    name = str(node[TARGET]).rpartition(".")[2]
    return _keyed(node, wanted, path, name)


def _keyed(node: Mapping[str, Any], wanted: Mapping[str, tuple[Any, bool]], path: str, name: str) -> dict[str, Any]:
    given = [key for key in node if key not in SPECIAL]
    for key in given:
        if key not in wanted:
            near = difflib.get_close_matches(str(key), list(wanted), n=1)
            there = f"; did you mean {near[0]}" if near else f"; there are {', '.join(wanted)}" if wanted else ""
            raise Misfit(_join(path, key), f": {name} takes no {key}{there}")
    for key, (_, required) in wanted.items():
        if required and key not in node:
            raise Misfit(_join(path, key), f" is missing: {name} needs it")
    return {
        key: fitted(value, wanted[key][0], _join(path, key)) if key in wanted else value for key, value in node.items()
    }


def _anything(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        if TARGET in value:
            return _node(value, path)
        return {key: _anything(each, _join(path, key)) for key, each in value.items()}
    return [_anything(each, path) for each in value] if isinstance(value, (list, tuple)) else value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(option for each in typing.get_args(hint) for option in _alternatives(each))
    if typing.get_origin(hint) is typing.Annotated and len(options := _alternatives(typing.get_args(hint)[0])) > 1:
        return options
    return (hint,)


def _base(option: Any) -> Any:
    """What an alternative is, without its range: a scalar type, `list`, `dict`, `Literal`, a TypedDict, or `object`."""
    if typing.get_origin(option) is typing.Annotated:
        option = typing.get_args(option)[0]
    origin = typing.get_origin(option) or option
    if origin in LISTS:
        return list
    if origin in MAPPINGS:
        return dict
    if origin is typing.Literal or origin in (bool, int, float, str, type(None)) or typing.is_typeddict(origin):
        return origin
    return object


def _is(value: Any, option: Any) -> bool:
    """Whether the kind of a value is that of an alternative; what is inside is not looked at, but for a choice."""
    base = _base(option)
    if base is typing.Literal:
        return value in typing.get_args(option) and not isinstance(value, bool)
    if base is list:
        return isinstance(value, (list, tuple))
    if base is dict or typing.is_typeddict(base):
        return isinstance(value, Mapping) and TARGET not in value
    if base is object:
        return isinstance(value, Mapping) and TARGET in value and _makes(value, option)
    return type(value) is base or (base is float and type(value) is int)


def _makes(node: Mapping[str, Any], option: Any) -> bool:
    """Whether a node builds what an annotation names, as far as classes tell; a function may return anything.

    A callable that returns an object is a class with `_partial_: true`, which its owner calls; one that returns nothing
    that we know is also an instance with `__call__`.
    """
    built, deferred = resolve(str(node[TARGET])), bool(node.get(PARTIAL))
    if not isinstance(built, type):
        return True
    if typing.get_origin(option) is not collections.abc.Callable:
        return not deferred and _is_a(built, option)
    made = typing.get_args(option)[-1]
    if deferred:
        return _is_a(built, made)
    return "__call__" in dir(built) and (made is type(None) or not _is_class(made))


def _is_a(built: type, wanted: Any) -> bool:
    """Subclasses, for classes; for protocols classes that have their methods; any class for what is neither."""
    if getattr(wanted, "_is_protocol", False):
        methods = {
            name
            for each in wanted.__mro__
            if getattr(each, "_is_protocol", False)
            for name, value in vars(each).items()
            if inspect.isfunction(value) and name not in OF_TYPING
        }
        return methods <= set(dir(built))
    return not _is_class(wanted) or issubclass(built, wanted)


def _is_class(hint: Any) -> bool:
    return isinstance(hint, type) and hint is not Any


def _converted(value: Any, option: Any) -> Any:
    """Another spelling of what an alternative takes, or None."""
    base, number = _base(option), type(value) in (int, float)
    if base is int and number and math.isfinite(value) and value == int(value):
        return int(value)  # trainer.max_steps=1e4
    if base is str and number:
        return str(value)  # name=5
    if base is bool and value in (0, 1):
        return bool(value)
    return None


def _inside(value: Any, option: Any, path: str) -> Any:
    """A value of the right kind, its range and its content held against the alternative."""
    base = _base(option)
    extras = typing.get_args(option)[1:] if typing.get_origin(option) is typing.Annotated else ()
    content = typing.get_args(typing.get_args(option)[0] if extras else option)
    if base in (int, float):
        return _number(value, next((extra for extra in extras if isinstance(extra, Range)), Range()), path)
    if base is list:
        return _listed(value, content, tuple if (typing.get_origin(option) is tuple) else list, path)
    if base is dict:
        return {key: fitted(each, content[1], _join(path, key)) for key, each in value.items()} if content else value
    if typing.is_typeddict(base):
        hints = typing.get_type_hints(base, include_extras=True)
        wanted = {key: (hint, key in base.__required_keys__) for key, hint in hints.items()}
        return _keyed(value, wanted, path, path or "the config")
    return _node(value, path) if base is object else value


def _number(value: float, allowed: Range, path: str) -> float:
    if math.isnan(value) or value not in allowed:
        raise Misfit(path, f"={_shown(value)} must be {allowed}")
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise Misfit(path, f"={_shown(value)} is more than can be counted")
    return value


def _listed(value: Any, content: tuple[Any, ...], kind: type, path: str) -> list[Any]:
    if not content:
        return list(value)
    if kind is tuple and content[-1] is not Ellipsis:
        if len(value) != len(content):
            raise Misfit(path, f"={_shown(value)} must have {len(content)} entries, not {len(value)}")
        hints = content
    else:
        hints = (content[0],) * len(value)
    found = []
    for each, hint in zip(value, hints, strict=True):
        try:
            found.append(fitted(each, hint, "" if not isinstance(each, Mapping) else path))
        except Misfit as error:
            if error.path:
                raise
            raise Misfit(path, f"={_shown(value)}: {error}") from None
    return found


def _wanted(options: tuple[Any, ...]) -> str:
    said = []
    for option in options:
        base = _base(option)
        if base is typing.Literal:
            said.append(f"one of {', '.join(map(str, typing.get_args(option)))}")
        elif base is list:
            said.append("a list [...]")
        elif base is dict or typing.is_typeddict(base):
            said.append("a mapping {...}")
        elif base is type(None):
            said.append("null")
        else:
            said.append(NAMES.get(base, _part(option)))
    return " or ".join(dict.fromkeys(said))


def _part(option: Any) -> str:
    called = typing.get_origin(option) is collections.abc.Callable
    made = typing.get_args(option)[-1] if called else option
    keys = f"{TARGET} and {PARTIAL}: true" if called else f"{TARGET}"
    return f"a part with a {keys} ({made.__name__})" if isinstance(made, type) else f"a part with a {keys}"


def _shown(value: Any) -> str:
    """As the command line would write it, in a few words."""
    if isinstance(value, Mapping):
        text = f"{{{', '.join(f'{key}: {_shown(each)}' for key, each in value.items())}}}"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(map(_shown, value))}]"
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = str(value) or "''"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
