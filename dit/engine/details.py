"""`details.csv`: what is measured in too many pieces for columns of metrics.csv, one number a line."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from dit.media.files import atomic, unfinished_files
from dit.runfiles import DETAILS, read_details

log = logging.getLogger(__name__)
HEAD = ["step", "name", "value"]
Line = tuple[int, str, str]  # as in HEAD


class Details:
    """Lines of step, name and value, floats written so that they read back bit for bit.

    A step and a name are there once: a step that is measured again, as after a resume, takes the place of what there
    was. Resuming drops the lines behind the checkpoint. Lines that the disk has no room for are kept until it has.
    Lines that cannot be read are left out.
    """

    def __init__(self) -> None:
        self.path = Path()
        self.values: dict[tuple[int, str], str] = {}
        self._new: dict[tuple[int, str], str] = {}  # not in the file
        self._anew = False  # whether the file is to be written whole
        self._failing = False

    def start(self, run: Path, step: int) -> None:
        """Takes the lines of the run up to `step`."""
        self.path = run / DETAILS
        try:
            for unfinished in unfinished_files(self.path):
                unfinished.unlink(missing_ok=True)
            text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.is_file() else None
        except OSError as error:
            log.warning("%s cannot be read: %s; it is written anew", self.path, error.strerror or error)
            text = None
        self.values = {(at, name): value for at, name, value in read_details(text or "") if at <= step}
        self._anew = text is not None
        self.flush()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers of a step and writes them."""
        for name, value in values.items():
            self._anew |= (step, name) in self.values
            self.values[step, name] = self._new[step, name] = repr(float(value))
        self.flush()

    def flush(self) -> None:
        """Writes what is not in the file. A failure is a warning, once, and what is missing is tried again."""
        try:
            self._write()
        except OSError as error:
            self._anew = True  # some of it may be there
            if not self._failing:
                log.warning("%s cannot be written: %s; it is tried again", self.path, error.strerror or error)
            self._failing = True
        else:
            self._new, self._anew, self._failing = {}, False, False

    def unwritten(self) -> list[Line]:
        """The lines that are not in the file, though they should be."""
        return [(*key, value) for key, value in self._new.items()]

    def restore(self, lines: Iterable[Line]) -> None:
        """Takes lines that an earlier process could not write."""
        for step, name, value in lines:
            self.values[step, name] = self._new[step, name] = value
        self._anew |= bool(self._new)
        self.flush()

    def _write(self) -> None:
        if self._anew:
            with atomic(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([HEAD, *([*key, value] for key, value in self.values.items())])
        elif self._new:
            head = [] if self.path.is_file() else [HEAD]
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([*head, *([*key, value] for key, value in self._new.items())])
