"""The front door of every command: compose a config, run the task, answer a user's mistake in one line.

`train.py`, `sample.py` and the scripts wrap their task with `main`. What the user got wrong (a key that does not exist,
a file that is not there, a frame count that the codec cannot take) ends as `error: ...` and exit code 2; anything else
is a bug of ours and keeps its traceback. `DIT_TRACEBACK=1` shows the traceback of the first kind as well.
"""

from __future__ import annotations

import collections.abc
import difflib
import errno
import functools
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
MISTAKE_EXIT_CODE = 2
MANY = 20  # options that one line can list
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # what is the machine's, whoever asks for a file
KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list [...]",
    dict: "a mapping {...}",
}


# What YAML holds for each kind of argument that is no scalar.
CONTAINERS: dict[typing.Any, type] = {
    list: list,
    tuple: list,
    collections.abc.Sequence: list,
    dict: dict,
    collections.abc.Mapping: dict,
}


def main(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorate `task(config)` into a command that composes `configs/<config_name>.yaml` with the command line."""

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def job(config: DictConfig) -> Any:
            # In here, since Hydra announces what leaves a job with lines of its own.
            with one_line_errors(config_name, config):
                return task(config)

        command = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)

        @functools.wraps(task)
        def run() -> None:
            # Hydra would otherwise swallow the exception and print several lines of its own.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            with one_line_errors(config_name):
                command()

        return run

    return decorate


class one_line_errors:
    """Context manager: a user's mistake leaves as `error: <one line>` on stderr and exit code 2; see `speaker`."""

    def __init__(self, config_name: str | None = None, config: DictConfig | None = None) -> None:
        self.config_name = config_name
        self.config = config

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or os.environ.get("DIT_TRACEBACK"):
            return
        message = explain(error, self.config_name)
        if message is None and self.config is not None:
            message = mistyped(self.config, self.config_name)
        if message is not None:
            said_by = speaker()
            if said_by is not None:
                sys.stdout.flush()
                print(f"error: {said_by}{message}", file=sys.stderr)
            raise SystemExit(MISTAKE_EXIT_CODE)


def speaker() -> str | None:
    """What stands in front of this process's mistakes, None when it is to be silent.

    Under torchrun, SLURM or Lightning's launcher all ranks check the same config, so one of them, the first of a node,
    speaks for all. Once they work together each has data of its own, and may be the only one that fails.
    """
    rank = next((os.environ[name] for name in ("LOCAL_RANK", "SLURM_LOCALID") if name in os.environ), "0")
    if rank == "0":
        return ""
    distributed = sys.modules.get("torch.distributed")  # not imported for this
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return f"rank {distributed.get_rank()}: "


def explain(error: Exception, config_name: str | None = None) -> str | None:
    """One line for a user's mistake, or None when `error` is a bug whose traceback must be seen."""
    while isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _config_mistake(error, config_name)
    if isinstance(error, (ValueError, FileNotFoundError, FileExistsError)) and _raised_by_us(error):
        return _one_line(str(error))
    if isinstance(error, OSError) and error.errno in DISK:
        what = error.filename or "a file cannot be written"
        return f"{what}: {error.strerror}; see to that and give the same command again"
    return None


def mistyped(config: DictConfig, config_name: str | None = None) -> str | None:
    """One line for the first value that is no number, text or flag where one is wanted; None when all are.

    Constructors say what they want by their annotations, the top level by the values of `configs/<config_name>.yaml`.
    It is asked after an error only: a config that works is never refused.
    """
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    if config_name is not None:
        usual: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{config_name}.yaml"), resolve=False)
        wanted = {key: (type(value),) for key, value in usual.items() if type(value) in KINDS and value != "???"}
        for key in wanted.keys() & values.keys():
            if not _is_one_of(values[key], wanted[key]):
                return _not_a(key, values[key], wanted[key])
    return _mistyped_arguments(values, "")


def _mistyped_arguments(node: Any, prefix: str) -> str | None:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    wanted = _plain_arguments(node["_target_"]) if isinstance(node, dict) and "_target_" in node else {}
    for key, value in children:
        if key in wanted and not _is_one_of(value, wanted[key]):
            return _not_a(f"{prefix}{key}", value, wanted[key])
        found = _mistyped_arguments(value, f"{prefix}{key}.")
        if found is not None:
            return found
    return None


def _plain_arguments(target: str) -> dict[str, tuple[type, ...]]:
    """Argument -> its types, for those arguments of a config's target that take nothing but what YAML can hold."""
    try:
        built: Any = hydra.utils.get_object(target)
        hints = typing.get_type_hints(vars(built).get("__init__", built) if isinstance(built, type) else built)
    except Exception:  # as with hints: no help is better than another error in front of the first one
        return {}
    wanted = {name: _alternatives(hint) for name, hint in hints.items()}
    return {name: kinds for name, kinds in wanted.items() if all(kind in (*KINDS, type(None)) for kind in kinds)}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    hints = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return tuple(CONTAINERS.get(typing.get_origin(each), each) for each in hints)


def _is_one_of(value: Any, kinds: tuple[type, ...]) -> bool:
    number = type(value) in (int, float) and str in kinds  # name=5 is a name
    return type(value) in kinds or (type(value) is int and float in kinds) or number


def _not_a(key: str, value: Any, kinds: tuple[type, ...]) -> str:
    return f"{key}={value} is not {' or '.join(KINDS.get(kind, 'null') for kind in kinds)}"


def _raised_by_us(error: Exception) -> bool:
    """True when the innermost frame is a `raise` in this repository: a message meant for the user, not a surprise."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        bool(frames) and Path(frames[-1].filename).is_relative_to(ROOT) and "site-packages" not in frames[-1].filename
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _missing_config(error: MissingConfigException) -> str:
    asked, options = error.missing_cfg_file or "?", list(error.options or ())
    group, _, name = asked.rpartition("/")
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}" if near else ""
    listed = f"; {group} can be: {', '.join(options)}" if options else f"; look for it under configs/{group}"
    return f"there is no config '{asked}'{hint}{listed if len(options) <= MANY or not near else ''}"


def _config_mistake(error: Exception, config_name: str | None) -> str:
    """Hydra's and OmegaConf's messages in one line, with the nearest existing keys where a key was not found."""
    message = str(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing; give it on the command line: {error.full_key}=..."
    wanted = re.search(r"Could not override '([^']+)'", message)
    if not wanted:
        return _one_line(message)
    key, cause = wanted.group(1), str(error.__cause__ or "")
    if "is not in struct" not in cause and "not found" not in cause.lower():
        return _one_line(f"cannot set {key}: {cause or message}")
    inner = re.search(r"full_key: (\S+)", cause)
    if inner and inner.group(1).startswith(f"{key}."):  # a mapping was given, which may only change what is there
        return f"cannot set {key}: it has no key '{inner.group(1)[len(key) + 1 :]}'; +{inner.group(1)}=... adds one"
    near = _nearest_keys(key, config_name)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `--cfg job` prints every key"
    return f"unknown config key '{key}'{hint}"


def _nearest_keys(key: str, config_name: str | None) -> list[str]:
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
