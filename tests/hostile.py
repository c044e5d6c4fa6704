"""What strangers may put into a file, and a watch over what this process does while it reads one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events (docs.python.org/3/library/audit_events.html) of commands, of changes to a disk, of the network.
EVENTS = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"),
    *("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime"),
    *("shutil.", "tempfile.", "socket.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "pickle."),
)
_seen: list[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(flags, int) and flags & WRITES and "__pycache__" not in str(path) and path != os.devnull:
            _seen.append(f"open {path} to write")
    elif event.startswith(EVENTS) and "torchinductor" not in str(arguments):  # which torch makes when it is imported
        _seen.append(f"{event} {arguments}")


sys.addaudithook(_hook)  # one for good: hooks cannot be taken away


@contextmanager
def watched() -> Iterator[list[str]]:
    """Within: commands, writes, unpickling and connections of this process are listed."""
    global _seen
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


def attacks(sentinel: Path) -> dict[str, Any]:
    """Name -> a value for any place of a config, which would make `sentinel` if it were more than data."""
    touch = f"touch {sentinel}"
    run = {"_target_": "torch.utils.collect_env.run", "command": touch}
    text = f"{{_target_:torch.utils.collect_env.run,command:'{touch}'}}"
    write = {"folder": str(sentinel), "texts": {"x": "x"}, "weights": {}, "name": "x", "metadata": {}}
    composed = {"_target_": "dit.interop.presets.compose", "preset": "demo"}
    return {
        "resolver": f"${{oc.create:{text}}}",
        "resolver in a text": f"a ${{oc.create:{text}}} b",
        "resolver of the environment": "${oc.env:HOME}",
        "another key": "${.width}",
        "escaped": "\\${width}",
        "resolver in a list": ["x", [f"${{oc.create:{text}}}"]],
        "resolver as a key": {f"${{oc.create:{text}}}": 1},
        "command": run,
        "command in a list": [run],
        "command in a mapping": {"x": {"y": [run]}},
        "system": {"_target_": "os.system", "command": touch},
        "positional": {"_target_": "os.system", "_args_": [touch]},
        "positional of a layer": {"_target_": "torch.nn.Linear", "_args_": [1, run]},
        "eval": {"_target_": "builtins.eval", "_args_": [f"__import__('os').system('{touch}')"]},
        "partial of a command": {**run, "_partial_": True},
        "partial by an interpolation": {**run, "_partial_": "${x}"},
        "not recursive": {"_target_": "dit.engine.run._make", "_recursive_": False, "node": run},
        "converted otherwise": {
            "_target_": "torch.nn.Linear",
            "_convert_": "none",
            "in_features": 1,
            "out_features": 1,
        },
        "function that builds": {"_target_": "dit.engine.run._make", "node": run},
        "a class under which a function builds": {
            "_target_": "dit.net.layers.TwoNorms",
            "dim": 1,
            "first": {"_target_": "dit.engine.run._make", "node": run},
            "second": None,
        },
        "functions that compose": {
            "_target_": "dit.interop.presets.build_empty",
            "config": {**composed, "overrides": [f"net.in_channels={text}"]},
        },
        "function that writes": {"_target_": "dit.interop.files.write_folder", **write},
        "function that saves": {"_target_": "torch.save", "obj": 1, "f": str(sentinel)},
        "function of the project that reads": {"_target_": "dit.recipes.encoders.pretrained", "model": str(sentinel)},
        "class that writes": {"_target_": "dit.engine.writers.TensorBoard"},
        "class that opens": {"_target_": "dit.folders.Weights", "folder": "/"},
        "class elsewhere": {"_target_": "subprocess.Popen", "args": ["touch", str(sentinel)]},
        "through a module": {"_target_": "dit.sampling.checkpoint.torch.utils.collect_env.run", "command": touch},
        "through a module of the network": {"_target_": "dit.net.layers.torch.utils.collect_env.run", "command": touch},
        "method": {"_target_": "pathlib.Path.touch", "self": str(sentinel)},
        "method of a class that may": {"_target_": "torch.nn.Module.apply", "fn": run},
        "module": {"_target_": "torch.nn"},
        "private": {"_target_": "dit.net.kernels.xformers._attend", "q": None},
        "dunder": {"_target_": "dit.net.layers.LayerNorm.__init__.__globals__"},
        "imported class": {"_target_": "dit.net.layers.Tensor"},
        "hydra itself": {"_target_": "hydra.utils.instantiate", "config": run},
        "a module that is not loaded": {"_target_": "antigravity.fly"},
        "no name": {"_target_": ["os.system"]},
        "empty name": {"_target_": ""},
        "name with a newline": {"_target_": "torch.nn.Linear\nx"},
        "relative name": {"_target_": "..os.system"},
        "object": object(),
        "number key": {1.5: "x"},
        "deep": _nested(200),
        "itself": _endless(),
        "bomb": _bomb(),
    }


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def _bomb() -> Any:
    """2^40 values in forty lists of two."""
    value: Any = 1
    for _ in range(40):
        value = [value, value]
    return value


def places(node: Any, key: str = "") -> Iterator[str]:
    """Every dotted key of a config, with the indices of lists."""
    held = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in held:
        below = f"{key}.{name}" if key else str(name)
        yield below
        yield from places(value, below)


def replaced(node: Any, place: str, value: Any) -> Any:
    """A copy of a config with another value at a place."""
    name, _, rest = place.partition(".")
    if isinstance(node, list):
        index = int(name)
        return [*node[:index], replaced(node[index], rest, value) if rest else value, *node[index + 1 :]]
    key = next(each for each in node if str(each) == name)
    return {**node, key: replaced(node[key], rest, value) if rest else value}
