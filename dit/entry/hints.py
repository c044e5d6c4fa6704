"""What Hydra and OmegaConf say of a command line, in one line that says what to do."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from dit.entry.paths import CONFIGS, options

MANY = 20  # options that one line can list
FEW = 4  # options that one line can advise


def composing(error: Exception, config_name: str | None) -> str:
    """An error of Hydra or OmegaConf, with the nearest existing keys or options where one was not found."""
    message = str(error)
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, MissingMandatoryValue):
        return (
            _chosen_base(sys.argv[1:])
            or f"{error.full_key} is missing; give it on the command line: {error.full_key}=..."
        )
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    wanted = re.search(r"Could not override '([^']+)'", message)
    if not wanted:
        return one_line(message)
    key, cause = wanted.group(1), str(error.__cause__ or "")
    if "is not in struct" not in cause and "not found" not in cause.lower():
        return one_line(f"cannot set {key}: {cause or message}")
    inner = re.search(r"full_key: (\S+)", cause)
    if inner and inner.group(1).startswith(f"{key}."):  # a mapping was given, which may only change what is there
        return f"cannot set {key}: it has no key '{inner.group(1)[len(key) + 1 :]}'; +{inner.group(1)}=... adds one"
    near = _nearest_keys(key, config_name)
    if owners := _choices_with(key, config_name):
        beside = [each for each in near if each.rpartition(".")[0] == key.rpartition(".")[0] != ""]
        other = f"; or did you mean {' or '.join(beside)}?" if beside else ""
        return f"{key} is a value of {' or '.join(owners)}, which is not chosen: give that, too{other}"
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `--cfg job` prints every key"
    return f"unknown config key '{key}'{hint}"


def one_line(text: str) -> str:
    return " ".join(text.split())


def no_option(arguments: Sequence[str]) -> str:
    """`text=null`, `solver=3`: Hydra takes names of a group's configs only, and does not say which argument it was."""
    for argument in arguments:
        group, _, value = argument.lstrip("+").partition("=")
        known = options(group.partition("@")[0])
        if (
            known
            and value not in known
            and re.fullmatch(r"null|true|false|[-+.\d_e]+|nan|[-+]?inf|\[.*\]|\{.*\}", value, re.I)
        ):
            leave_out = "" if "none" in known else f"; ~{group} leaves it out"
            return f"{group}={value} is no config of that group; {group} can be: {', '.join(known)}{leave_out}"
    return "a group of configs takes the name of one of them; `--help` lists the groups"


def _choices_with(key: str, config_name: str | None) -> list[str]:
    """Options that a key belongs to, where no option of its group that has it is chosen: `codec/tiling=tiles` of
    `codec.tiling.height`. A task of sample.py puts its keys at the top level."""
    chosen = [argument.lstrip("+") for argument in sys.argv[1:]]
    *path, _ = names = key.split(".")
    for depth in range(len(path), 0, -1):
        group = "/".join(path[:depth])
        if found := [name for name in options(group) if _has(group, name, names)]:
            owners = [f"{group}={name}" for name in found]
            return [] if len(owners) > FEW or set(owners) & set(chosen) else owners
    if config_name == "sample" and not path:
        owners = [f"task={name}" for name in options("task") if _has("task", name, names)]
        return [] if set(owners) & set(chosen) else owners
    return []


def _has(group: str, option: str, names: Sequence[str]) -> bool:
    """Whether a config of a group holds a key of the whole config, at the place that the file's head says, or the
    group."""
    text = (CONFIGS / group / f"{option}.yaml").read_text(encoding="utf-8")
    head = re.match(r"# @package (\S+)", text)
    place = re.split(r"[./]", head.group(1) if head else group)
    if place == ["_global_"]:
        place = []
    if list(names[: len(place)]) != place:
        return False
    node = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    for name in names[len(place) :]:
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True


def _missing_config(error: MissingConfigException) -> str:
    asked = error.missing_cfg_file or "?"
    known = [name for name in error.options or () if not name.startswith("_")]
    group, _, name = asked.rpartition("/")
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}" if near else ""
    listed = f"; {group} can be: {', '.join(known)}" if known else f"; look for it under configs/{group}"
    return f"there is no config '{asked}'{hint}{listed if len(known) <= MANY or not near else ''}"


def _chosen_base(arguments: Sequence[str]) -> str | None:
    """What to choose instead, where an argument names a base: a config whose name begins with `_`."""
    for argument in arguments:
        group, _, name = argument.lstrip("+").partition("=")
        if name.startswith("_") and (CONFIGS / group / f"{name}.yaml").is_file():
            texts = {each: (CONFIGS / group / f"{each}.yaml").read_text() for each in options(group)}
            heirs = [each for each, text in texts.items() if f"\n  - {name}\n" in text]
            return f"{argument} is no choice, but what these share: {', '.join(heirs)}; choose one of them"
    return None


def _unreadable(error: OverrideParseException) -> str:
    """An argument that Hydra's grammar does not take."""
    override = str(error.override)
    key, equals, value = override.partition("=")
    if not equals:
        return f"'{one_line(override)}' is not key=value; put a value with spaces in quotes: 'key=a b'"
    if not re.fullmatch(r"[+~]{0,2}[\w./@$-]+", key, re.ASCII):
        return f"'{one_line(key)}' is no config key: keys have letters, digits and '_./@' only; `--cfg job` prints them"
    shown = one_line(value) if len(value) <= 60 else f"{one_line(value[:57])}..."
    return (
        f"cannot read {key}={shown}: it has a sign that means something in lists, mappings or sweeps; as one text it"
        f" goes in two pairs of quotes: '{key}=\"...\"'"
    )


def _nearest_keys(key: str, config_name: str | None) -> list[str]:
    if "/" in key:
        groups = [folder.relative_to(CONFIGS).as_posix() for folder in CONFIGS.rglob("*") if folder.is_dir()]
        return difflib.get_close_matches(key, groups, n=3, cutoff=0.6)
    if config_name is None:
        return []
    overrides = [arg for arg in sys.argv[1:] if re.match(r"^[\w/]+=[\w.-]+$", arg) and _is_group(arg.split("=")[0])]
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra.compose(config_name, overrides=overrides)
    except Exception:  # the hint is a courtesy: whatever keeps us from composing it must not hide the message
        return []
    keys = list(_dotted(OmegaConf.to_container(config, resolve=False)))
    by_path = difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
    last = key.rpartition(".")[2]
    by_name = [k for k in keys if k.rpartition(".")[2] == last][:3]
    return list(dict.fromkeys(by_name + by_path))[:3]


def _is_group(name: str) -> bool:
    return (CONFIGS / name).is_dir()


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _dotted(value, f"{prefix}{name}.")
