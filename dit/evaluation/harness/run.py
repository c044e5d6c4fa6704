"""Checkpoints x suites: each is measured by itself, and what one of them cannot do is a line beside what the others
did."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dit import runfiles
from dit.evaluation.harness.result import as_report
from dit.evaluation.harness.subject import Sampler, Subject, subjects
from dit.evaluation.harness.table import protocol, table
from dit.evaluation.harness.work import Work
from dit.evaluation.suites.base import Suite
from dit.media.files import atomic
from dit.sampling.ranks import Ranks
from dit.sampling.request import home

SUMMARY = "evaluation"  # .json and .md: what one command has measured

Explain = Callable[[Exception], str | None]  # a user's mistake in a line; None of a bug
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What came of an evaluation.

    Attributes:
        measured: how many checkpoints were measured, each suite counting.
        written: the files of the summary, on the first rank.
        failed: what could not be measured, and why, a line each.
    """

    measured: int
    written: list[Path]
    failed: list[str]


def evaluate(ask: Mapping[str, Any], ranks: Ranks, explain: Explain, say: Say, warn: Say) -> Outcome:
    """Measures the checkpoints of `ask["ckpt"]` with the suites of `ask["suite"]` (configs/evaluate.yaml, built).

    Writes `report.json` beside what each suite makes, and a summary of all. Where one checkpoint and one suite are
    asked for, what they raise is raised; of several, one that fails is a line, and the rest is done.

    Args:
        explain: what an exception says to a user.
        say: is told what to print. warn: is told what could not be measured, when that turns out.
    """
    suites: Mapping[str, Suite] = ask["suite"]
    named = subjects(ask["ckpt"], Sampler(**{field.name: ask[field.name] for field in fields(Sampler)}))
    out = None if ask["out"] is None else Path(ask["out"])
    alone = len(named) * len(suites) == 1
    reports: dict[str, list[tuple[str, dict[str, Any]]]] = {name: [] for name in suites}
    failed = []
    while named:
        subject = named.pop(0)  # and with it its networks, before the next ones are built
        for name, suite in suites.items():
            place = out if out is None or alone else out / subject.name / name
            work = Work(subject, name, suite.version, place, ranks)
            try:
                report = _measured(subject, suite, work, say)
            except Exception as error:
                # A rank that fails alone would leave the others waiting; mistakes are found by all of them.
                if alone or (ranks.size > 1 and explain(error) is None):
                    raise
                failed.append(f"{subject.name}, {name}: {_in_a_line(error, explain)}")
                warn(failed[-1])
            else:
                reports[name].append((subject.name, report))
    done = {name: each for name, each in reports.items() if each}
    where = out if out is not None else _where(ask["ckpt"], [report for each in done.values() for _, report in each])
    written = _summary(where, done, suites, failed, ranks, say) if done else []
    return Outcome(sum(map(len, done.values())), written, failed)


def _measured(subject: Subject, suite: Suite, work: Work, say: Say) -> dict[str, Any]:
    suite.check(subject)
    result = suite.measure(subject, work)
    report = as_report(work.suite, suite.title, subject.about, result)
    if work.ranks.rank == 0:
        _write_json(result.folder / runfiles.MEASURES, report)
        say("\n".join(result.said))
    return {**report, "folder": str(result.folder)}


def _in_a_line(error: Exception, explain: Explain) -> str:
    if (line := explain(error)) is not None:
        return line
    traceback.print_exception(error)
    return f"{type(error).__name__}, see its traceback above"


def _where(ckpt: str, reports: list[dict[str, Any]]) -> Path:
    """Where the summary goes: into the run of a single checkpoint, the folder that was named, or that in which all runs
    lie."""
    homes = list(dict.fromkeys(home(report["checkpoint"]["file"]) for report in reports))
    if len(homes) == 1:
        return homes[0]
    if Path(ckpt).is_dir():
        return Path(ckpt)
    parents = {each.resolve().parent for each in homes}
    return homes[0].parent if len(parents) == 1 else Path()


def _summary(
    where: Path,
    done: Mapping[str, list[tuple[str, dict[str, Any]]]],
    suites: Mapping[str, Suite],
    failed: list[str],
    ranks: Ranks,
    say: Say,
) -> list[Path]:
    """Writes and says the tables of all suites."""
    if ranks.rank:
        return []
    sections = []
    for name, reports in done.items():
        lines = protocol(reports)
        sections.append(f"## {suites[name].title}\n\n{table(reports)}\n\n" + "\n".join(f"- {line}" for line in lines))
        say(f"\n{suites[name].title}\n\n{table(reports)}" + "".join(f"\nnote: {line}" for line in lines[1:]))
    if failed:
        sections.append("## Not measured\n\n" + "\n".join(f"- {line}" for line in failed))
    markdown, data = where / f"{SUMMARY}.md", where / f"{SUMMARY}.json"
    with atomic(markdown) as part:
        part.write_text("# Evaluation\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    brief = {
        name: [{"name": of, **{key: value for key, value in each.items() if key != "clips"}} for of, each in reports]
        for name, reports in done.items()
    }
    _write_json(data, {"suites": brief, "failed": failed})
    return [markdown, data]


def _write_json(file: Path, content: Any) -> None:
    with atomic(file) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
