"""The data card in the run directory, and the cards behind a network's weights."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol

from lightning import LightningDataModule

from dit.media.files import atomic

log = logging.getLogger(__name__)
JSON, MARKDOWN = "data_card.json", "data_card.md"
SHOWN = 12  # characters of a hash in a file's name


class Card(Protocol):
    """What `VideoData.card()` returns."""

    @property
    def json(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def markdown(self) -> str: ...
    @property
    def line(self) -> str: ...


def of(data: LightningDataModule) -> Card | None:
    """The card of a run's data; None for a data module of one's own that has none."""
    make: Any = getattr(data, "card", None)
    card: Card | None = make() if callable(make) else None
    return card


def write(run: Path, card: Card) -> None:
    """Writes the card into a run directory. That of other data, which the run was trained on before, is kept beside it
    under its hash."""
    file = run / JSON
    if file.is_file() and (before := hashlib.sha256(file.read_bytes()).hexdigest()) != card.hash:
        for each in (file, run / MARKDOWN):
            if each.is_file():
                each.replace(each.with_stem(f"{each.stem}-{before[:SHOWN]}"))
        log.warning("the data is other than before: its card is now %s, and that of before lies beside it", run / JSON)
    for name, text in ((JSON, card.json), (MARKDOWN, card.markdown)):
        with atomic(run / name) as part:
            part.write_text(text, encoding="utf-8")
