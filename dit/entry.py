"""The front door of every command: compose a config, run the task, answer a user's mistake in one line.

`train.py`, `sample.py` and the scripts wrap their task with `main`. What the user got wrong (a key that does not exist,
a file that is not there, a frame count that the codec cannot take) ends as `error: ...` and exit code 2; anything else
is a bug of ours and keeps its traceback. `DIT_TRACEBACK=1` shows the traceback of the first kind as well.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
import traceback
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


def main(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorate `task(config)` into a command that composes `configs/<config_name>.yaml` with the command line."""

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def job(config: DictConfig) -> Any:
            with one_line_errors(config_name):  # in here, since Hydra announces what leaves a job with lines of its own
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
    """Context manager: a user's mistake leaves as `error: <one line>` on stderr and exit code 2."""

    def __init__(self, config_name: str | None = None) -> None:
        self.config_name = config_name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or os.environ.get("DIT_TRACEBACK"):
            return
        message = explain(error, self.config_name)
        if message is not None:
            sys.stdout.flush()
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(MISTAKE_EXIT_CODE)


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
    return None


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
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    listed = f" {group} can be: {', '.join(options)}" if options else " look for it under configs/"
    return f"there is no config '{asked}'{hint}{listed}"


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
