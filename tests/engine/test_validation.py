"""Validation: errors that are the same for every objective, batch size and order, beside the run's own loss."""

import csv
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.batch import collate
from dit.diffusion import prediction, space, weighting
from dit.diffusion.conditioning import FirstFrame, RandomTasks
from dit.diffusion.levels import LogitNormal, PerFrame, Uniform
from dit.engine import rng
from dit.engine.callbacks.metrics import Metrics
from dit.engine.callbacks.validation import Validation
from dit.engine.module import VideoDiffusion
from dit.engine.validated import alike
from dit.engine.writers import CSV, Writers
from dit.runfiles import DETAILS, METRICS, read_rows
from tests.engine.small import FRAMES, SIZE, Clips, average, fit, model, objective, tasks, video_data

NAMES = ("val/x0_error", "val/eps_error", "val/velocity_error")


class Kept:
    """A writer that remembers."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def start(self, *arguments: Any) -> None: ...

    def metrics(self, step: int, values: Any) -> None:
        self.rows.setdefault(step, {}).update(values)

    def video(self, *arguments: Any) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def validated(
    tmp_path: Path, module: VideoDiffusion | None = None, error_levels: int = 5, **data: Any
) -> dict[str, float]:
    """What is written after one step at a rate of 0, so that the weights are the first ones."""
    module = module or model(max_steps=1, lr=0.0)
    ema, kept = average(), Kept()
    metrics = Metrics(Writers([kept]), None, every=100)  # type: ignore[arg-type]
    validation = Validation(ema, metrics, every=1, level_buckets=2, error_levels=error_levels, raw=False)
    fit(module, [ema, metrics, tasks(validation)], tmp_path, video_data(**data))
    return kept.rows[1]


def errors_of(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith(NAMES)}


def test_columns_and_what_they_add_up_to(tmp_path: Path) -> None:
    row = validated(tmp_path)
    for name in NAMES:
        levels = [row[f"{name}_level_{share}"] for share in ("0.1", "0.3", "0.5", "0.7", "0.9")]
        frames = [row[f"{name}_frame_{frame:02d}"] for frame in range(FRAMES)]
        assert row[name] == pytest.approx(sum(levels) / 5) == pytest.approx(sum(frames) / FRAMES) and row[name] > 0
        assert (
            len([column for column in row if column.startswith(name)])
            == 1 + 5 + FRAMES + (name == NAMES[0]) * 5 * FRAMES
        )
    for frame in range(FRAMES):  # the joint table, which is of x0
        joint = [row[f"val/x0_error_level_{share}_frame_{frame:02d}"] for share in ("0.1", "0.3", "0.5", "0.7", "0.9")]
        assert sum(joint) / 5 == pytest.approx(row[f"val/x0_error_frame_{frame:02d}"]) and len(set(joint)) == 5
    assert row["val/x0_error_level_0.3"] == pytest.approx(
        sum(row[f"val/x0_error_level_0.3_frame_{frame:02d}"] for frame in range(FRAMES)) / FRAMES
    )
    # On the linear path eps is off by (1 - t) / t times what x0 is off, the velocity by 1 / t times.
    assert row["val/eps_error_level_0.3"] == pytest.approx(row["val/x0_error_level_0.3"] * (0.7 / 0.3) ** 2, rel=1e-4)
    assert row["val/velocity_error_level_0.3"] == pytest.approx(row["val/x0_error_level_0.3"] / 0.3**2, rel=1e-4)
    assert "val/loss" in row


def test_raw_weights_and_pieces_have_a_table_of_their_own(tmp_path: Path) -> None:
    """The averages lag behind the weights after two steps: both are measured, each by its own name."""
    module, ema, writer = model(max_steps=2, lr=0.1), average(), CSV()
    metrics = Metrics(Writers([writer, kept := Kept()]), None, every=100)  # type: ignore[arg-type]
    validation = Validation(ema, metrics, every=2, level_buckets=2, error_levels=2, raw=True)
    fit(module, [ema, metrics, tasks(validation)], tmp_path, video_data())
    columns = read_rows((tmp_path / METRICS).read_bytes()).rows[0]
    means = ("loss", "x0_error", "eps_error", "velocity_error")
    assert [name for name in columns if name.startswith("val_raw/")] == [f"val_raw/{name}" for name in means]
    assert not any("_level_" in name and "_frame_" in name for name in columns)
    for name in means:
        assert float(columns[f"val_raw/{name}"]) != pytest.approx(float(columns[f"val/{name}"]), rel=1e-6)
    with (tmp_path / DETAILS).open(newline="") as file:
        details = {line["name"]: float(line["value"]) for line in csv.DictReader(file)}
    joint = [f"x0_error_level_{share}_frame_{frame:02d}" for share in ("0.25", "0.75") for frame in range(FRAMES)]
    assert {f"{group}/{name}" for group in ("val", "val_raw") for name in joint} < set(details)
    assert not set(details) & set(columns) and "val_raw/x0_error_level_0.25" in details
    shown = {name: value for name, value in kept.rows[2].items() if name.startswith("val")}  # wandb, TensorBoard
    assert shown == {**{n: float(v) for n, v in columns.items() if n.startswith("val")}, **details}


def test_none_are_taken_where_none_are_wanted(tmp_path: Path) -> None:
    row = validated(tmp_path, error_levels=0)
    assert not errors_of(row) and "val/loss" in row


@pytest.mark.parametrize(
    "changes",
    [
        {"weighting": weighting.Sigmoid(1.0)},
        {"levels": PerFrame(LogitNormal(1.0, 1.0))},
        {"levels": Uniform(), "space": space.Eps(), "weighting": weighting.MinSNR(5.0)},
        {"conditioning": RandomTasks({"first": FirstFrame()}, {"first": 1}, 0.0)},
    ],
)
def test_runs_that_differ_in_their_objective_have_equal_errors_and_other_losses(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain = validated(tmp_path / "plain")
    other = validated(tmp_path / "other", model(max_steps=1, lr=0.0, objective=replace(objective(), **changes)))
    assert errors_of(other) == errors_of(plain) != {}
    assert other["val/loss"] != pytest.approx(plain["val/loss"], rel=0.01)


def test_errors_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    whole = validated(tmp_path / "whole", val_batch_size=6)
    single = validated(tmp_path / "single", val_batch_size=1)
    assert errors_of(single) == pytest.approx(errors_of(whole), rel=1e-5)  # rounding
    assert single["val/loss"] == pytest.approx(whole["val/loss"], rel=1e-5)


def test_clips_share_a_pass_only_where_their_texts_are_as_long() -> None:
    conds = [{"text": torch.zeros(1, length, 2), "fps": torch.zeros(1)} for length in (3, 5, 3, 4, 5, 3)]
    x0 = [torch.zeros(1, 3, 2, 4, 4)] * len(conds)
    assert alike(conds, x0) == [[0, 2, 5], [1, 4], [3]] and alike([], []) == []
    assert alike([{}] * 3, [x0[0], torch.zeros(1, 3, 1, 4, 4), x0[0]]) == [[0, 2], [1]]  # clips of two shapes


@pytest.mark.parametrize(("rows", "batches"), [(1, [1, 2] * 6), (5, [2, 4] * 3), (100, [6, 12])])
def test_training_had_memory_for_as_many_rows(rows: int, batches: list[int]) -> None:
    """Two levels: of the rows that may go together, half are clips."""
    module, seen = model(), []
    module.net.register_forward_pre_hook(lambda net, args: seen.append(len(args[0])))
    clips = [video_data().val[i] for i in range(6)]
    batch = collate([{**clip, "caption": "as long"} for clip in clips])
    found = module.eval().validation_step(batch, 0, [0.25, 0.75], rows)
    assert seen == batches and len(found) == 6
    alone = module.validation_step(batch.one(4), 0, [0.25, 0.75], 1)[0]
    torch.testing.assert_close(found[4].errors, alone.errors, rtol=1e-5, atol=0)
    for field, other in zip(found[4].loss, alone.loss, strict=True):
        torch.testing.assert_close(field, other, rtol=1e-5, atol=1e-7)


def test_another_meaning_of_the_same_output_is_another_function(tmp_path: Path) -> None:
    """Were errors taken of the raw output, they would not notice."""
    plain = validated(tmp_path / "plain")
    as_eps = replace(objective(), prediction=prediction.Eps(alpha_floor=1e-3))
    other = validated(tmp_path / "other", model(max_steps=1, lr=0.0, objective=as_eps))
    assert errors_of(other) != pytest.approx(errors_of(plain), rel=0.01)


def test_weights_decide_the_errors_and_training_stays_as_it_was(tmp_path: Path) -> None:
    first = validated(tmp_path / "first")
    again = validated(tmp_path / "again", model(max_steps=1, lr=0.0))
    other = validated(tmp_path / "other", model(max_steps=1, lr=0.0, seed=1))
    assert errors_of(again) == errors_of(first) != errors_of(other)
    weights = []
    for levels in (0, 3):
        module, metrics = model(max_steps=3), Metrics(Writers([]), None, every=100)  # type: ignore[arg-type]
        validation = Validation(average(), metrics, every=1, level_buckets=2, error_levels=levels, raw=False)
        rng.seed(0)
        fit(module, [validation.ema, tasks(validation)], tmp_path / str(levels))
        weights.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(("levels", "buckets"), [(-1, 2), (2, 0)])
def test_numbers_without_meaning_are_refused(levels: int, buckets: int) -> None:
    name = "error_levels=-1" if levels < 0 else "level_buckets=0"
    with pytest.raises(ValueError, match=f"callbacks.validation.{name} must be at least"):
        Validation(None, None, every=1, level_buckets=buckets, error_levels=levels, raw=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("ranks", [2, 4, 5])
def test_every_clip_counts_once_on_any_number_of_ranks(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six clips on 4 ranks: two of the second turn belong to nobody. Each rank adds its own sums to the others'."""
    module, parts = model(max_steps=1), []

    def keep(values: torch.Tensor) -> torch.Tensor:
        parts.append(values)
        return values

    monkeypatch.setattr("dit.engine.callbacks.by_shape.sum_over_ranks", keep)
    validation = Validation(average(), None, every=1, level_buckets=2, error_levels=2, raw=False)  # type: ignore[arg-type]
    monkeypatch.setattr(validation.ema, "swapped", lambda _: nullcontext())

    def measured(world_size: int) -> torch.Tensor:
        parts.clear()
        for rank in range(world_size):
            data = video_data()
            monkeypatch.setattr(type(data), "rank", rank, raising=False)
            monkeypatch.setattr(type(data), "world_size", world_size, raising=False)
            strategy = SimpleNamespace(batch_to_device=lambda batch: batch)
            precision = SimpleNamespace(val_step_context=nullcontext)
            trainer = SimpleNamespace(
                datamodule=data, strategy=strategy, precision_plugin=precision, global_rank=rank, world_size=world_size
            )
            validation.measure(trainer, module, lambda **_: None)  # type: ignore[arg-type]
        return torch.stack(parts).sum(0)

    torch.testing.assert_close(measured(ranks), measured(1), rtol=1e-5, atol=1e-9)
    assert measured(1)[0, 0] == 6


class Some:
    """Some of the clips, (index, frames) each."""

    image_frames = 1

    def __init__(self, *chosen: tuple[int, int]) -> None:
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Any:
        number, frames = self.chosen[index]
        item = Clips(9)[number]
        return {**item, "pixels": item["pixels"][:, :frames]}


def test_an_image_among_videos_counts_for_the_first_frame_alone(tmp_path: Path) -> None:
    both, image, video = (
        validated(tmp_path / str(i), val=Some(*chosen), val_batch_size=1)
        for i, chosen in enumerate([((0, 1), (1, FRAMES)), ((0, 1),), ((1, FRAMES),)])
    )
    assert "val/x0_error_frame_01" not in image and FRAMES == 2
    assert not any("_shape_" in name for name in (*image, *video))
    for name in (*NAMES, "val/loss"):
        assert both[f"{name}_shape_1x{SIZE}x{SIZE}"] == pytest.approx(image[name])
        assert both[f"{name}_shape_{FRAMES}x{SIZE}x{SIZE}"] == pytest.approx(video[name])
    for share in ("0.1", "0.9"):  # the joint table of each shape
        for alone, frames in ((image, 1), (video, FRAMES)):
            for frame in range(FRAMES):
                cell = f"val/x0_error_level_{share}_frame_{frame:02d}"
                assert both.get(f"{cell}_shape_{frames}x{SIZE}x{SIZE}") == pytest.approx(alone.get(cell))
    for name in (*NAMES, "val/loss"):
        first, later = (f"{name}_frame_{frame:02d}" for frame in range(2))
        assert both[first] == pytest.approx((image[first] + video[first]) / 2)
        assert both[later] == pytest.approx(video[later])
    assert both["val/loss"] == pytest.approx((image["val/loss"] + video["val/loss"]) / 2)
    assert both["val/x0_error"] == pytest.approx((both["val/x0_error_frame_00"] + both["val/x0_error_frame_01"]) / 2)
