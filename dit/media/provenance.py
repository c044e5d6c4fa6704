"""Which code made something: versions of what decides the bits."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "av", "numpy", "pillow")


@cache
def versions() -> dict[str, str]:
    """Python, the packages that make pixels and files, and the commit of this code where it is a git checkout; a
    commit whose files were changed since ends with "+"."""
    installed = {name: metadata.version(name) for name in PACKAGES}
    return {"commit": _commit(), "python": platform.python_version(), **installed}


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
