"""A folder of a published text encoder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan's in miniature. Read it, or spoil a copy."""
    pytest.importorskip("transformers")
    from tests.text import tiny

    return tiny.save(tmp_path_factory.mktemp("wan"), tokenizer=tiny.unigram(), text_encoder=tiny.t5("UMT5"))
