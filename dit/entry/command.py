"""`@main("train")` makes a command of a task: `python train.py experiment=demo name=mine`."""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from dit.config.kinds import Misfit, fitted
from dit.config.sweep import is_sweep
from dit.entry import pages, sweep
from dit.entry.errors import MISTAKE_EXIT_CODE, Mistake, one_line_errors
from dit.entry.literal import check_braces, literal
from dit.entry.paths import CONFIGS
from dit.streams import drop_unheard_lines, reopen

INTERRUPTED = 130  # as shells say of a command that Ctrl-C ended


def main(config_name: str) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Decorate `task(config)` into a command that composes `configs/<config_name>.yaml` with the command line.

    The task gets plain containers: interpolations resolved, and every value held against the annotation of what it is
    for (`dit.config.kinds`). For the top level that is the task's own: `config` is annotated with a TypedDict.
    """

    def decorate(task: Callable[[Any], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def run() -> None:
            _Command(config_name, task).run()

        return run

    return decorate


class _Command:
    """One call of a command: what was typed, and which jobs of a sweep failed."""

    def __init__(self, config_name: str, task: Callable[[Any], Any]) -> None:
        self.config_name = config_name
        self.task = task
        # Now: a launcher hands jobs over to other processes, where names that only annotations use are not known.
        hints = typing.get_type_hints(task, include_extras=True)
        self.wanted = next((hint for name, hint in hints.items() if name != "return"), Any)
        self.typed = sys.argv
        self.arguments = [self.typed[0], *literal(self.typed[1:])]
        self.failed: list[str] = []

    def run(self) -> None:
        reopen()
        if {"--help", "-h"} & set(self.arguments[1:]):
            with one_line_errors(self.config_name):
                print(pages.usage(self.config_name, sys.modules[self.task.__module__].__doc__ or ""))
            return
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra swallows the exception and prints several lines of its own

        @functools.wraps(self.task)
        def job(config: DictConfig) -> Any:
            return self.job(config)

        command = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=self.config_name)(job)
        try:
            with one_line_errors(self.config_name):
                check_braces(self.typed[1:])
                sys.argv = self.arguments
                command()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        finally:
            sys.argv = self.typed
        if self.failed:
            print(f"error: {len(self.failed)} jobs of the sweep failed:", *self.failed, sep="\n  ", file=sys.stderr)
            raise SystemExit(MISTAKE_EXIT_CODE)

    def job(self, config: DictConfig) -> Any:
        sys.argv = self.typed  # as whoever records the command line wants it
        if not (is_sweep() and sweep.runs_here()):
            return self.one(config)
        name = sweep.run_name(str(config.get("name", self.config_name)), self.arguments[1:])
        try:
            return self.one(config)
        except Mistake as mistake:
            self.failed.append(f"{name}: {mistake.message}")
        except Exception as error:
            traceback.print_exc()
            self.failed.append(f"{name}: {type(error).__name__}, see its traceback above")
        return None

    def one(self, config: DictConfig) -> Any:
        # In here, since Hydra announces what leaves a job with lines of its own.
        with one_line_errors(self.config_name):
            plain = checked(config, self.wanted)
            if "name" in plain:
                plain["name"] = sweep.run_name(plain["name"], self.arguments[1:])
            if plain.get("show"):
                print("\n".join(pages.differences(self.config_name, config)), end="\n\n")
            drop_unheard_lines()
            return self.task(plain)


def composed(config_name: str, overrides: Sequence[str], wanted: Any) -> dict[str, Any]:
    """`configs/<config_name>.yaml` with overrides, as a command's task would get it. wanted: as in `checked`."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return checked(hydra.compose(config_name, literal(list(overrides))), wanted)


def checked(config: DictConfig, wanted: Any) -> dict[str, Any]:
    """A composed config as plain containers. wanted: what each key of its top level may be, a TypedDict."""
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    known = typing.get_type_hints(wanted, include_extras=True) if typing.is_typeddict(wanted) else {}
    plain |= {key: None for key in known if key not in plain}  # `text=null` leaves no key of a group
    try:
        return {key: fitted(value, known.get(key, Any), key) for key, value in plain.items()}
    except Misfit as error:
        raise Misfit(_typed(config, error.path), error.why) from None


def _typed(config: DictConfig, path: str) -> str:
    """The key that a user sets for the value at `path`: another one where the config says `${key}` there."""
    parent, _, key = path.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    raw = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else None
    found = re.fullmatch(r"\$\{([\w.]+)\}", str(raw.get(key))) if isinstance(raw, dict) else None
    return found.group(1) if found else path
