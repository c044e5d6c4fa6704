"""The run directory is taken by the first rank, once all have found where they begin."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dit.engine.callbacks import begin
from dit.engine.callbacks.begin import Begin
from dit.engine.resume import Start


class Refused(ValueError):
    pass


def beginning(first: bool, done: list[str], error: Exception | None = None) -> Any:
    def take() -> None:
        done.append("take")
        if error is not None:
            raise error

    callback = Begin(Start(step=6), take, lambda: done.append("then"))
    trainer = SimpleNamespace(is_global_zero=first, default_root_dir=Path("runs/mine"))
    return lambda: callback.setup(trainer, None, "fit")  # type: ignore[arg-type]


def others_say(monkeypatch: pytest.MonkeyPatch, done: list[str], *answers: Any) -> None:
    """What the first rank says each time that the ranks tell one another something."""
    answer = iter(answers)

    def gather(value: Any) -> list[Any]:
        done.append("told")
        return [next(answer), value]

    monkeypatch.setattr(begin, "gather_objects", gather)


def test_the_first_takes_between_two_meetings() -> None:
    done: list[str] = []
    beginning(True, done)()
    assert done == ["take", "then"]


def test_the_others_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    others_say(monkeypatch, done, 6, None)
    beginning(False, done)()
    assert done == ["told", "told", "then"]


def test_all_are_refused_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    others_say(monkeypatch, done, 6, "runs/mine is being trained by another process")
    with pytest.raises(ValueError, match="^runs/mine is being trained by another process$"):
        beginning(False, done)()
    assert done == ["told", "told"]
    done.clear()
    others_say(monkeypatch, done, 6, None)
    with pytest.raises(Refused):  # as it is, on the first rank, which has told the others
        beginning(True, done, Refused("no"))()
    assert done == ["told", "take", "told"]


def test_ranks_that_see_other_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    others_say(monkeypatch, done, 0)
    with pytest.raises(ValueError, match=r"begin at different steps \(0, 6\): runs/mine must be the same folder"):
        beginning(False, done)()
    assert done == ["told"]
