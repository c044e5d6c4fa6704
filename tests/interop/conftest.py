"""Published weights to train from, and a folder to train in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.reference import randomise
from tests.interop.tuning import WAN

Folders = Callable[[str], tuple[Any, Path]]


@pytest.fixture(scope="session")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Wan as diffusers saves it, in shards."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("published") / "wan"
    randomise(diffusers.WanTransformer3DModel(**WAN)).save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Name of a twin -> (a pipeline of diffusers, the folder that it was saved to)."""
    pytest.importorskip("diffusers")
    from scripts.twins.pipelines import saved

    made: dict[str, tuple[Any, Path]] = {}

    def of(name: str) -> tuple[Any, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = saved(name, folder), folder
        return made[name]

    return of
