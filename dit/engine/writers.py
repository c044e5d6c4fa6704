"""Where metrics and videos go: always a CSV, and by config wandb or TensorBoard.

Writers live on rank 0 only. What one of them raises is reported once and that writer is dropped: a full disk or a lost
connection must never end a training run.
"""

from __future__ import annotations

import csv
import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

from dit.engine.details import Details, Line
from dit.media.files import atomic, unfinished_files
from dit.media.gif import as_gif
from dit.runfiles import METRICS, read_rows

log = logging.getLogger(__name__)

GIF_SIDE = 320  # pixels of the longer side in TensorBoard: an event file holds every preview
Mode = Literal["offline", "online", "disabled"]


class Writer(Protocol):
    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        """Opens the writer in run directory `run`; `step` is 0 or the step that the run resumes from."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def video(self, step: int, name: str, file: Path, caption: str) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Unwritten:
    """Rows that metrics.csv has no room for, and lines of details.csv."""

    rows: list[dict[str, Any]]
    details: list[Line]

    def __bool__(self) -> bool:
        return bool(self.rows or self.details)


class Writers:
    """Hands everything to each writer and survives their failures. Does nothing until started (so: on rank 0 only)."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._waiting = list(writers)
        self._writers: list[Writer] = []

    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        self._writers, self._waiting = self._waiting, []
        self._each("start", lambda writer: writer.start(run, config, step))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._each("metrics", lambda writer: writer.metrics(step, values))

    def details(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of which there are many: lines of details.csv, and metrics like others to wandb and TensorBoard."""
        self._each(
            "details", lambda writer: (writer.details if isinstance(writer, CSV) else writer.metrics)(step, values)
        )

    def video(self, step: int, name: str, file: Path, caption: str) -> None:
        self._each("video", lambda writer: writer.video(step, name, file, caption))

    def flush(self) -> None:
        self._each("flush", lambda writer: writer.flush())

    def unwritten(self) -> Unwritten:
        """What is not on the disk, though it should be."""
        found = [writer.unwritten() for writer in self._writers if isinstance(writer, CSV)]
        return Unwritten(
            [row for each in found for row in each.rows], [line for each in found for line in each.details]
        )

    def restore(self, unwritten: Unwritten) -> None:
        """Gives the tables what an earlier process could not write."""
        for writer in self._writers:
            if isinstance(writer, CSV):
                writer.restore(unwritten)

    def close(self) -> None:
        self._each("close", lambda writer: writer.close())
        self._writers = []

    def _each(self, what: str, call: Callable[[Writer], None]) -> None:
        for writer in list(self._writers):
            try:
                call(writer)
            except Exception as error:  # whatever a third party raises: training goes on without it
                self._writers.remove(writer)
                log.warning("%s failed (%s: %s) and is off from here on", type(writer).__name__, what, error)


class CSV:
    """`metrics.csv`: one row a step, one column a metric, floats written so that they read back bit for bit.

    Resuming drops the rows behind the checkpoint, which the resumed run writes again, so no step is there twice. Rows
    that the disk has no room for are kept until it has. Lines of an older file that are no rows are left out, and the
    file as it was is kept beside it.
    """

    def __init__(self) -> None:
        self.path = Path()
        self.columns: list[str] = ["step"]
        self.rows: list[dict[str, Any]] = []
        self.written = 0  # rows in the file
        self.size = -1  # bytes of the file as it was left; another size means that it is to be written anew
        self.failing = False
        self._details = Details()

    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        self.path = run / METRICS
        try:
            for unfinished in unfinished_files(self.path):  # of a run that was killed while it wrote
                unfinished.unlink(missing_ok=True)
            if self.path.is_file():
                self._read(step)
        except OSError as error:
            log.warning("%s cannot be read: %s; it is written anew", self.path, error.strerror or error)
        self._details.start(run, step)
        self.flush()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if self.rows and self.rows[-1]["step"] == step:
            if self.written == len(self.rows):
                self.written, self.size = self.written - 1, -1  # the row in the file is no longer right
        else:
            self.flush()
            self.rows.append({"step": step})
        self.rows[-1].update({name: repr(float(value)) for name, value in values.items()})

    def video(self, step: int, name: str, file: Path, caption: str) -> None:
        pass  # it lies in samples/ already

    def details(self, step: int, values: Mapping[str, float]) -> None:
        self._details.add(step, values)

    def flush(self) -> None:
        """Writes new rows. Rows that cannot be written are kept, and tried again with the next one."""
        self._details.flush()
        try:
            self._write()
        except OSError as error:
            self.size = -1
            if not self.failing:
                reason = error.strerror or error
                log.warning("%s cannot be written: %s; its rows are kept until it can", self.path, reason)
            self.failing = True
        else:
            if self.failing:
                log.warning("%s is written again, nothing is missing", self.path)
            self.failing = False

    def unwritten(self) -> Unwritten:
        """All rows, while the file is incomplete, and the lines that details.csv lacks."""
        return Unwritten([dict(row) for row in self.rows] if self.failing else [], self._details.unwritten())

    def restore(self, unwritten: Unwritten) -> None:
        """Takes what an earlier process could not write. Rows are those of the file, or belong among them."""
        self._details.restore(unwritten.details)
        if unwritten.rows:
            self._restore(unwritten.rows)

    def _restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        by_step = {row["step"]: row for row in self.rows}
        for row in rows:
            by_step.setdefault(row["step"], {"step": row["step"]}).update(row)
        self.rows = [by_step[step] for step in sorted(by_step)]
        self.written, self.size = 0, -1
        self.flush()

    def close(self) -> None:
        self.flush()

    def _write(self) -> None:
        new = [name for row in self.rows[self.written :] for name in row if name not in self.columns]
        if new or self.size < 0 or not self.path.is_file() or self.path.stat().st_size != self.size:
            self.columns += dict.fromkeys(new)
            with atomic(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, self.columns, restval="")
                table.writeheader()
                table.writerows(self.rows)
        elif self.written < len(self.rows):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns, restval="").writerows(self.rows[self.written :])
        self.written, self.size = len(self.rows), self.path.stat().st_size

    def _read(self, step: int) -> None:
        """Takes the rows up to `step`."""
        there = read_rows(self.path.read_bytes())
        self.columns = there.columns
        self.rows = [row for row in there.rows if row["step"] <= step]
        if there.bad:
            kept = self.path.with_suffix(".damaged.csv")
            kept.write_bytes(self.path.read_bytes())
            log.warning("%d lines of %s are no rows and left out; the file as it was is %s", there.bad, self.path, kept)
        elif there.cut:
            log.info("the last row of %s was cut off", self.path)


class Wandb:
    """Weights & Biases. The run's id is kept in `<run>/wandb_id`, so a resumed run goes on in the same one.

    Args:
        project: wandb project.
        mode: `offline` (no account, no network; `wandb sync` uploads later), `online` or `disabled`.
        entity: team or user, or None for the default one.
        tags: of the run.
    """

    def __init__(self, project: str, mode: str, entity: str | None, tags: list[str]) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"logger.wandb.mode={mode}: wandb knows offline, online and disabled")
        self.project, self.mode, self.entity, self.tags = project, cast(Mode, mode), entity, tags
        self.run: Any = None

    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        if self.mode != "online":  # wandb 0.31 sends reports on itself even so
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        kept = run / "wandb_id"
        if not kept.exists():
            kept.write_text(secrets.token_hex(4) + "\n")
        self.wandb = wandb
        self.run = wandb.init(
            project=self.project, entity=self.entity, tags=self.tags, mode=self.mode, config=dict(config),
            name=run.name, id=kept.read_text().strip(), resume="allow", dir=str(run),
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        # wandb's own step must grow; a resumed run repeats steps, so ours is an axis of its own.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({"step": step, **values})

    def video(self, step: int, name: str, file: Path, caption: str) -> None:
        # From a path: arrays would need moviepy, which breaks.
        self.run.log({"step": step, name: self.wandb.Video(str(file), caption=caption, format="mp4")})

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.run.finish()


class TensorBoard:
    """TensorBoard event files in `<run>/tensorboard`. Its `add_video` writes nothing with moviepy 2, so videos are
    pictures that move (GIF), and under the same name a text with prompt and file."""

    def __init__(self) -> None:
        self.writer: Any = None

    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what a killed run had written behind its last checkpoint
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)  # type: ignore[no-untyped-call]

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def video(self, step: int, name: str, file: Path, caption: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        self.writer.add_text(name, f"{caption}: {file}", step)
        gif, width, height = as_gif(file, GIF_SIDE)
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self.writer.file_writer.add_summary(summary, step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
