"""What every suite promises: one way of measuring a checkpoint, told by one YAML of configs/suite.

A new one is a class here, a file `configs/suite/<name>.yaml` that lists its arguments under `# @package suite.<name>`,
and its name in `configs/suite/all.yaml`. `scripts/evaluate.py suite=<name>` finds it; nothing else names suites.
docs/extending.md shows one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from dit.evaluation.harness.result import Result
from dit.evaluation.harness.subject import Subject
from dit.evaluation.harness.work import Work


class Suite(ABC):
    """One way of measuring checkpoints. Its constructor takes plain values and reads no files.

    Attributes:
        title: what it measures, in a few words, for a heading.
        version: of what it finds; raise it with the code that finds something else, so that findings of before are not
            taken for those of now.
    """

    title: ClassVar[str]
    version: ClassVar[int] = 1

    @abstractmethod
    def check(self, subject: Subject) -> None:
        """Raises ValueError or FileNotFoundError, in one line, for a checkpoint that it cannot measure, or a file that
        it lacks. Called before anything is computed, so it should take no more than reading the checkpoint's config."""

    @abstractmethod
    def measure(self, subject: Subject, work: Work) -> Result:
        """Measures a checkpoint that passed `check`. What takes long goes through `work`, which keeps it on the disk:
        started again after a kill, nothing is made twice and the result is the same.

        All ranks call it, and share what goes through `work`; the first one writes the result.
        """
