"""Where metrics and videos go: always a CSV, and by config wandb or TensorBoard.

Writers live on rank 0 only. What one of them raises is reported once and that writer is dropped: a full disk or a lost
connection must never end a training run.
"""

from __future__ import annotations

import csv
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

log = logging.getLogger(__name__)

METRICS = "metrics.csv"
Mode = Literal["offline", "online", "disabled"]


class Writer(Protocol):
    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        """Opens the writer in run directory `run`; `step` is 0 or the step that the run resumes from."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def video(self, step: int, name: str, file: Path, caption: str) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


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

    def video(self, step: int, name: str, file: Path, caption: str) -> None:
        self._each("video", lambda writer: writer.video(step, name, file, caption))

    def flush(self) -> None:
        self._each("flush", lambda writer: writer.flush())

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

    Resuming drops the rows behind the checkpoint, which the resumed run writes again, so no step is there twice.
    """

    def __init__(self) -> None:
        self.path = Path()
        self.columns: list[str] = ["step"]
        self.rows: list[dict[str, Any]] = []
        self.written = 0  # rows of the file that need no change

    def start(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.path = run / METRICS
        if self.path.is_file():
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                # a row that a kill cut off is not a number of columns
                whole = [row for row in reader if None not in row.values() and None not in row]
            self.rows = [{**row, "step": int(row["step"])} for row in whole if int(row["step"]) <= step]
        self._rewrite()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if self.rows and self.rows[-1]["step"] == step:
            self.written = min(self.written, len(self.rows) - 1)
        else:
            self.flush()
            self.rows.append({"step": step})
        self.rows[-1].update({name: repr(float(value)) for name, value in values.items()})

    def video(self, step: int, name: str, file: Path, caption: str) -> None:
        pass  # it lies in samples/ already

    def flush(self) -> None:
        new = [name for row in self.rows[self.written :] for name in row if name not in self.columns]
        on_disk = sum(1 for _ in self.path.open()) - 1
        if new or on_disk != self.written:
            self.columns += dict.fromkeys(new)
            self._rewrite()
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="").writerows(self.rows[self.written :])
        self.written = len(self.rows)

    def close(self) -> None:
        self.flush()

    def _rewrite(self) -> None:
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            table = csv.DictWriter(file, self.columns, restval="")
            table.writeheader()
            table.writerows(self.rows)
        part.replace(self.path)
        self.written = len(self.rows)


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
    named as text with their path."""

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
        self.writer.add_text(name, f"{caption}: {file}", step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
