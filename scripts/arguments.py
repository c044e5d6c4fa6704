"""What scripts are told: settings as `name=value` beside overrides of train.py, or options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints


class Parser(argparse.ArgumentParser):
    """Raises ValueError, in one line, for options that it does not know."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; --help lists what there is")


def parse(asked: type, arguments: Sequence[str], example: str) -> tuple[dict[str, Any], list[str]]:
    """The settings among the arguments, as the fields of the dataclass `asked` take them, and the other arguments.

    Raises ValueError, in one line, for what is not name=value, and for values of another kind. example: for that line.
    """
    kinds = get_type_hints(asked)
    given: dict[str, Any] = {}
    overrides = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not argument.startswith("~") and (not equals or name.startswith("-")):  # ~key takes a key or a group out
            raise ValueError(f"{argument!r} is not name=value, as in {example}; there are {', '.join(kinds)}")
        if name in kinds:
            given[name] = read(name, value, str(kinds[name]))
        else:
            overrides.append(argument)
    return given, overrides


def read(name: str, value: str, kind: str) -> Any:
    """A value as its setting takes it. Raises ValueError for another one."""
    if value == "null" and "None" in kind:
        return None
    if "str" in kind:
        return value
    if "bool" in kind:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{name}={value} must be true or false")
        return value.lower() == "true"
    number, what = (int, "a whole number") if "int" in kind else (float, "a number")
    try:
        return number(value)
    except ValueError:
        raise ValueError(f"{name}={value} must be {what}") from None


def usage(file: str, about: str) -> str:
    """The head of a script, and the settings of its class `Asked` as one types them.

    file: of the script. about: its docstring.
    """
    source = Path(file).read_text(encoding="utf-8").partition("class Asked:")[2].partition("\n\n\n")[0]
    told = re.findall(r"^    (\w+): .*? = (.*?)  # (.*)$", source, re.MULTILINE)
    shown = {"None": "null", "False": "false", "True": "true", "os.cpu_count() or 1": "all cores"}
    settings = ((name, shown.get(value, value.strip('"')), said) for name, value, said in told)
    lines = [f"  {f'{name}={value}':24}{said}".rstrip() for name, value, said in settings]
    return "\n".join([about.strip(), "", *lines])
