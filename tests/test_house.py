"""The house rules of docs/architecture.md, held by walking every module's syntax tree."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "net", "diffusion", "signals", "recipes", "sampling", "codec", "text", "engine", "evaluation", "interop", "media",
    "report",
)  # fmt: skip
MAY_IMPORT = {name: {name} for name in PACKAGES} | {
    "sampling": {"sampling", "diffusion", "signals", "interop"},
    "engine": set(PACKAGES) - {"report"},
    "interop": {"interop", "net"},
    "recipes": {"recipes", "diffusion", "net", "codec"},
    "report": {"report", "media"},
    # What asks checkpoints; beside it are readers of pixels, which know nobody.
    "evaluation/harness": {"evaluation", "sampling", "media"},
    "evaluation/suites": {"evaluation", "sampling", "diffusion", "codec", "media", "signals"},
    "checkpoint": set(),  # the format of checkpoints: everybody may ask it
    "config": set(),  # limits, kinds and `build`: everybody may import it
    "entry": set(),
}
# Of data, engine and signals take the type of a batch, and the sampler the readers of files: one reader of each kind.
# What opens videos asks one place for the name that FFmpeg is given.
OF_DATA = {
    "engine": {"data.batch"},
    "signals": {"data.batch"},
    "media": {"data.on_disk"},
    "report": {"data.on_disk"},
    "sampling": {"data.decode", "data.images", "data.textfile"},
    "evaluation/suites": {"data.batch", "data.worlds", "data.clips", "data.decode"},
}
ENTRY = "dit.entry"  # for commands only
LIGHTNING_ROOMS = ("dit/engine/", "data/module.py")


def tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.stdout.splitlines() if line.endswith(suffixes) and (ROOT / line).is_file()]


def imports(source: str, in_functions: bool = True) -> set[str]:
    """Dotted names that a module imports, in functions too unless said; `from a import b` counts as both a and a.b."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        if in_functions or not isinstance(node, ast.FunctionDef):
            nodes += ast.iter_child_nodes(node)
    return found


def breaches(path: str, source: str) -> list[str]:
    """What a module at `path` (relative to the root) imports against the rules."""
    names, wrong = imports(source), []
    parts = Path(path).parts
    for name in names:
        first, _, rest = name.partition(".")
        if parts[0] == "data" and first == "dit":
            wrong.append(f"{path}: data may not import {name}")
        if parts[0] == "dit" and len(parts) > 2:
            package = next((room for room in ("/".join(parts[1:3]), parts[1]) if room in MAY_IMPORT), parts[1])
            sibling = rest.split(".")[0]
            if first == "dit" and sibling in PACKAGES and sibling not in MAY_IMPORT[package]:
                wrong.append(f"{path}: dit.{package} may not import {name}")
            if name.startswith(ENTRY) and package != "entry":
                wrong.append(f"{path}: only commands import {ENTRY}")
            if first == "data" and not any(f"{name}.".startswith(f"{module}.") for module in OF_DATA.get(package, ())):
                wrong.append(f"{path}: dit.{package} may not import {name}")
        if parts[0] in ("dit", "data") and not path.startswith("dit/entry/"):
            if name.endswith(("DictConfig", "ListConfig")):
                wrong.append(f"{path}: constructors take plain values, not {name}")
            if name == "safetensors.torch.save_file" and path != "dit/writing.py":
                wrong.append(f"{path}: weights are written by dit/writing.py, so that others may read them")
            if first in ("lightning", "pytorch_lightning") and not path.startswith(LIGHTNING_ROOMS):
                wrong.append(f"{path}: Lightning stays in {' and '.join(LIGHTNING_ROOMS)}")
    return wrong


def test_nobody_imports_across_the_rules() -> None:
    wrong = []
    for file in tracked(".py"):
        wrong += breaches(file.relative_to(ROOT).as_posix(), file.read_text())
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "path, source",
    [
        ("dit/net/a.py", "from dit.diffusion.path import Path"),
        ("dit/sampling/a.py", "import dit.net.backbone"),
        ("dit/codec/a.py", "def f():\n    from dit import text"),
        ("dit/engine/a.py", "from data.module import VideoData"),
        ("dit/engine/a.py", "import data"),
        ("dit/sampling/a.py", "from data.batch import Batch"),
        ("dit/signals/a.py", "from dit.text.base import TextEncoder"),
        ("dit/net/a.py", "from dit.signals.base import Signal"),
        ("dit/net/a.py", "from data.textfile import read_text"),
        ("dit/report/a.py", "from dit.engine.writers import METRICS"),
        ("dit/evaluation/a.py", "from dit.sampling.pipeline import Pipeline"),
        ("dit/evaluation/harness/a.py", "from data.worlds.world import World"),
        ("dit/evaluation/suites/a.py", "from dit.engine.module import VideoDiffusion"),
        ("dit/net/a.py", "import lightning"),
        ("dit/interop/a.py", "from safetensors.torch import save_file"),
        ("dit/net/a.py", "from omegaconf import DictConfig"),
        ("data/a.py", "import dit.net"),
        ("data/worlds/a.py", "import lightning"),
    ],
)
def test_the_walk_sees_a_breach(path: str, source: str) -> None:
    assert breaches(path, source)


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that wait for one another while they are imported; sources: dotted name -> source."""
    graph = {}
    for name, source in sources.items():
        found = imports(source, in_functions=False) & {*sources} - {name}
        # `from package import module` waits for the module, and takes the package as far as it is there.
        graph[name] = found - {each.rpartition(".")[0] for each in found}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_circle() -> None:
    sources = {}
    for file in tracked(".py"):
        path = file.relative_to(ROOT).with_suffix("")
        if path.parts[0] in ("data", "dit", "scripts"):
            sources[".".join(path.parts).removesuffix(".__init__")] = file.read_text()
    assert not circle(sources)


def test_the_walk_sees_a_circle() -> None:
    later = {"a": "import b", "b": "from c import d", "c": "def f():\n    import a"}
    assert not circle(later)
    assert {*circle(later | {"c": "if True:\n    from a import f"})} == {*"abc"}


def test_no_package_hides_behind_gitignore() -> None:
    for package in ("data", "dit", "configs", "scripts", "tests"):
        ignored = subprocess.run(["git", "check-ignore", "-q", f"{package}/x.py"], cwd=ROOT)
        assert ignored.returncode == 1, f".gitignore hides {package}/"


def test_no_machine_paths_or_registry_hosts() -> None:
    absolute = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w")
    hosts = re.compile(r"(?:https?://|index-url|extra-index)[^\s]*(?:pypi|pythonhosted|download\.pytorch)", re.I)
    wrong = []
    for file in tracked(".py", ".yaml", ".md", ".txt", ".toml", ".sbatch", "Makefile", "run"):
        if file == Path(__file__):
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if absolute.search(line) or hosts.search(line):
                wrong.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)


def test_no_file_outgrows_its_purpose() -> None:
    long = {f.relative_to(ROOT).as_posix(): n for f in tracked(".py") if (n := len(f.read_text().splitlines())) > 400}
    assert not {name: n for name, n in long.items() if not name.startswith("tests/")}, long


def test_every_test_that_the_log_names_is_there() -> None:
    """The last cell of the rows about situations: a test that was renamed leaves a promise that nobody holds."""
    files = {file.relative_to(ROOT).as_posix(): file.read_text() for file in (ROOT / "tests").rglob("*.py")}
    cells = [line.rstrip(" |").rpartition(" | ")[2] for line in (ROOT / "docs/log.md").read_text().splitlines()]
    named = {name for cell in cells for name in re.findall(r"\btest_\w+", cell)}
    there = {Path(file).stem for file in files} | {
        name for source in files.values() for name in re.findall(r"def (test_\w+)", source)
    }
    shortened = {name for name in named if name.endswith("_")}  # test_a_resumed_optimizer_...
    absent = (named - shortened - there) | {name for name in shortened if not any(x.startswith(name) for x in there)}
    assert len(named) > 80 and not absent, sorted(absent)


def test_no_two_test_files_have_one_name() -> None:
    """Their folders are no packages, so pytest would read one of the two and refuse the other."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}
