"""`pip install -e .`, as far as it needs no network: the project can be imported from anywhere."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("pyproject.toml", "requirements.txt", "dit", "data", "configs")
NOTEBOOK = """
import site
site.addsitedir({site!r})
from dit.interop.presets import compose
from dit.sampling.pipeline import Pipeline
import dit, data.batch
assert compose("demo", ["net/position=sincos"])["width"] > 0
print(dit.__file__, data.__file__, sep="\\n")
"""


def run(folder: Path, *command: str, path: str = "") -> str:
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(clone: Path, site: Path) -> None:
    """What pip does with `-e`, into a folder of its own, with the setuptools that is there."""
    if "editable_wheel" in run(clone, "setup.py", "--help-commands") and importlib.util.find_spec("wheel"):
        run(clone, "-c", "from setuptools import build_meta; build_meta.build_editable('wheel')")
        (wheel,) = (clone / "wheel").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    else:  # setuptools before 70.1 makes no wheel by itself; pip would fetch what does
        site.mkdir()
        run(clone, "setup.py", "-q", "develop", "--install-dir", str(site), "--no-deps", path=str(site))


@pytest.mark.slow
def test_a_notebook_elsewhere_imports_an_editable_install(tmp_path: Path) -> None:
    clone, site, notebook = (tmp_path / name for name in ("clone", "site", "notebook"))
    clone.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, clone / part)
    (clone / "setup.py").write_text("import setuptools\n\nsetuptools.setup()\n")
    install(clone, site)
    (notebook / "data").mkdir(parents=True)  # as notebooks have: it must not hide ours
    (notebook / "look.py").write_text(NOTEBOOK.format(site=str(site)))
    found = run(notebook, "look.py").split()
    assert found == [str(clone / name / "__init__.py") for name in ("dit", "data")]
    needed = next(
        path for folder in (site, clone) for path in folder.glob("*/*") if path.name in ("METADATA", "requires.txt")
    )
    assert "torch==" in needed.read_text()
