"""Random state of this process as plain containers: saved with a checkpoint, put back on resume."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """State of python's, numpy's and torch's global generators (the current CUDA device included)."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numpy_words = torch.from_numpy(np.asarray(keys).astype(np.int64))
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [str(name), numpy_words, int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }  # fmt: skip
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Puts the generators back to a captured state."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def seed(*entropy: int) -> None:
    """Seeds all generators from several numbers, mixed so that (seed 0, rank 1) and (seed 1, rank 0) differ."""
    words = np.random.SeedSequence(list(entropy)).generate_state(3, np.uint32)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def generator(device: torch.device | str, *entropy: int) -> torch.Generator:
    """A generator of its own from several numbers."""
    words = np.random.SeedSequence(list(entropy)).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn inside the block leaves training's own random numbers as they were."""
    before = capture()
    try:
        yield
    finally:
        restore(before)
