"""`VideoData`: exact resume through Lightning, every rank its share, and mistakes that are named."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.batch import Batch, Item, Skipped, collate, to_float
from data.decode import BadClips
from data.module import VideoData
from tests.data.resume_job import Numbered, Recorder, numbered_data, trainer


def ids(data: VideoData, steps: int) -> list[list[str]]:
    return [batch.ids for batch in islice(iter(data.train_dataloader()), steps)]


# ---- batches -----------------------------------------------------------------------------------------------------


def test_pixels_become_floats_between_minus_one_and_one_without_loss() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 256, 1, 1).expand(3, -1, 1, 1)
    batch = collate([Item(pixels=levels, caption="a", id="x", fps=8.0)] * 2)
    want = torch.from_numpy(np.arange(256) / 255 * 2 - 1).float()
    assert batch.pixels.dtype == torch.float32 and batch.pixels.shape == (2, 3, 256, 1, 1)
    torch.testing.assert_close(batch.pixels[1, 2, :, 0, 0], want)
    assert torch.equal(((batch.pixels + 1) * 127.5).round().to(torch.uint8)[0], levels)
    assert to_float(levels).min() == -1 and to_float(levels).max() == 1


def test_a_batch_moves_as_one_and_keeps_its_words() -> None:
    item = Item(pixels=torch.zeros(3, 1, 2, 2, dtype=torch.uint8), caption="a", id="x", fps=12.5)
    item["skipped"] = (Skipped("y", "broken"),)
    moved = collate([item, item]).to("meta")
    assert moved.pixels.is_meta and moved.values["fps"].is_meta
    assert (moved.values["caption"], moved.ids, len(moved)) == (["a", "a"], ["x", "x"], 2)
    assert moved.skipped == (Skipped("y", "broken"),) * 2


def test_a_packed_batch_keeps_each_clip_in_its_shape() -> None:
    """Clips of one shape are put side by side, with all that is known of them."""

    def item(name: str, *size: int) -> Item:
        pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        return Item(pixels=pixels, caption=f"the {name}", id=name, fps=8.0, columns={"speed": float(ord(name))})

    items = [item("a", 2, 4, 6), item("b", 1, 8, 8), item("c", 2, 4, 6), item("d", 4, 2, 2), item("e", 1, 8, 8)]
    batch = collate(items, packed=True)
    assert batch.ids == ["a", "c", "b", "e", "d"] and len(batch) == 5 and batch.is_packed
    assert batch.values["caption"] == [f"the {name}" for name in batch.ids]
    assert batch.values["speed"].tolist() == [float(ord(name)) for name in batch.ids]  # type: ignore[union-attr]
    by_id = {each["id"]: to_float(each["pixels"]) for each in items}
    for name, clip in zip(batch.ids, batch.clips, strict=True):
        assert torch.equal(clip, by_id[name])
    assert [tuple(group.shape) for group in batch.groups] == [(2, 3, 2, 4, 6), (2, 3, 1, 8, 8), (1, 3, 4, 2, 2)]
    assert torch.equal(batch.groups[1][1], by_id["e"])
    assert len({clip.untyped_storage().data_ptr() for clip in batch.clips}) == 1  # a worker hands over one piece
    one = batch.one(3)
    assert one.ids == ["e"] and not one.is_packed and torch.equal(one.groups[0], by_id["e"][None])
    assert one.values["speed"].tolist() == [float(ord("e"))]  # type: ignore[union-attr]
    moved = batch.to("meta")
    assert moved.is_packed and moved.device.type == "meta" and moved.values["speed"].device.type == "meta"  # type: ignore[union-attr]
    dense = collate([items[0], items[2]])
    assert not dense.is_packed and len(dense.clips) == 2 and dense.groups[0] is dense.pixels
    with pytest.raises(ValueError, match="clips of one batch differ in shape: a is .3, 2, 4, 6., b is .3, 1, 8, 8."):
        collate(items)


def test_columns_travel_by_name() -> None:
    def item(**columns: Any) -> Item:
        return Item(
            pixels=torch.zeros(3, 1, 2, 2, dtype=torch.uint8), caption="", id="x", fps=8.0, columns=columns
        )  # fmt: skip

    made = collate(
        [item(motion=0.5, word="a", camera=[1.0, 2.0]), item(motion=float("nan"), word="", camera=[3.0, 4.0])]
    )
    motion = made.values["motion"]
    assert isinstance(motion, torch.Tensor) and motion.dtype == torch.float32 and motion[0] == 0.5 and motion[1].isnan()
    assert made.values["word"] == ["a", ""] and made.values["camera"].tolist() == [[1, 2], [3, 4]]  # type: ignore[union-attr]
    one = made.one(1)
    assert one.values["word"] == [""] and one.values["camera"].tolist() == [[3, 4]] and len(one) == 1  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"column camera: values of one batch differ in kind or length"):
        collate([item(camera=[1.0]), item(camera=[1.0, 2.0])])


def test_clips_of_different_shape_are_named() -> None:
    items = [Item(pixels=torch.zeros(3, f, 2, 2, dtype=torch.uint8), caption="", id=f"f{f}", fps=8.0) for f in (4, 5)]
    with pytest.raises(ValueError, match=r"f4 is \(3, 4, 2, 2\), f5 is \(3, 5, 2, 2\)"):
        collate(items)


# ---- order and resume --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_order_does_not_depend_on_workers_and_batches_are_stamped(num_workers: int) -> None:
    batches = list(islice(iter(numbered_data(7, batch_size=3, num_workers=num_workers).train_dataloader()), 7))
    assert [batch.position for batch in batches] == [3, 6, 9, 12, 15, 18, 21]
    assert Counter(id for batch in batches for id in batch.ids) == Counter({str(i): 3 for i in range(7)})
    assert [batch.ids for batch in batches] == ids(numbered_data(7, batch_size=3), 7)
    for batch in batches:
        want = to_float(torch.tensor([int(id) for id in batch.ids], dtype=torch.uint8))
        assert torch.equal(batch.pixels, want.view(-1, 1, 1, 1, 1).expand_as(batch.pixels))


def test_loading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    want = torch.rand(4)
    torch.manual_seed(3)
    ids(numbered_data(7), 3)
    list(numbered_data(7).val_dataloader())
    assert torch.equal(torch.rand(4), want)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [((0, 2), (0, 2)), ((2, 2), (2, 2)), ((2, 2), (0, 3))])
def test_a_killed_run_goes_on_with_the_very_next_sample(
    tmp_path: Path, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """(workers, batch size) before and after; the run dies inside step 5, the checkpoint is of step 3."""
    checkpoint = tmp_path / "step3.ckpt"
    workers, batch_size = before

    class KeepsStepThree(Recorder):
        def on_train_batch_end(self, *_: object) -> None:
            if self.global_step == 3:
                self.trainer.save_checkpoint(checkpoint)

    killed = KeepsStepThree(die_at=5)
    with pytest.raises(BaseException):  # noqa: B017  # Lightning turns the interrupt into an exit
        trainer(9, tmp_path).fit(killed, numbered_data(11, num_workers=workers, batch_size=batch_size))
    assert len(killed.seen) == 5

    workers, batch_size = after
    resumed = Recorder()
    trainer(9, tmp_path).fit(
        resumed, numbered_data(11, num_workers=workers, batch_size=batch_size), ckpt_path=checkpoint, weights_only=True
    )
    stream = sum(ids(numbered_data(11, batch_size=1), 6 + 6 * batch_size), [])
    assert sum(killed.seen[:3], []) + sum(resumed.seen, []) == stream


@pytest.mark.slow
def test_two_ranks_share_each_epoch_and_resume_exactly(tmp_path: Path) -> None:
    """Under torchrun itself; without loading processes, and with two for each rank."""
    job = Path(__file__).with_name("resume_job.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(job), str(tmp_path), "0", "2"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for num_workers in ("0", "2"):
        found = [json.loads((tmp_path / num_workers / f"rank{rank}.json").read_text()) for rank in range(2)]
        assert_shared_and_resumed(found)


def assert_shared_and_resumed(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert len(rank["straight"]) == 9
        assert rank["first"] + rank["resumed"] == rank["straight"]
        assert rank["weights"][0] == rank["weights"][1] == ranks[0]["weights"][0]
    steps = [step for pair in zip(*(rank["straight"] for rank in ranks), strict=True) for step in pair]
    stream = sum(steps, [])
    assert stream == sum(ids(numbered_data(11, batch_size=1), 36), [])
    for epoch in range(3):
        assert sorted(map(int, stream[11 * epoch : 11 * epoch + 11])) == list(range(11))
    validated = [sum(rank["validated"][-1:], []) for rank in ranks]
    assert not set(validated[0]) & set(validated[1])


def test_validation_shows_every_clip_once_and_does_not_move_training(tmp_path: Path) -> None:
    data, recorder = numbered_data(11, val=5), Recorder()
    trainer(4, tmp_path, val_check_interval=2, num_sanity_val_steps=1).fit(recorder, data)
    assert recorder.validated == [["0", "1"], *[["0", "1"], ["2", "3"], ["4"]] * 2]
    assert data.state_dict() == {"position": 8, "num_clips": 11, "seed": 0, "fingerprints": {}}


def test_training_without_validation_clips(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer(3, tmp_path).fit(recorder, numbered_data(5, val=None))
    assert len(recorder.seen) == 3 and recorder.validated == []


def test_fewer_clips_than_a_batch_still_train() -> None:
    assert all(len(step) == 8 and set(step) == {"0", "1", "2"} for step in ids(numbered_data(3, batch_size=8), 4))


@pytest.mark.parametrize(("count", "seed", "says"), [(12, 0, "num_clips=12.*num_clips=11"), (11, 1, "seed=1.*seed=0")])
def test_other_data_cannot_continue_an_order(count: int, seed: int, says: str) -> None:
    state = numbered_data(11).state_dict()
    with pytest.raises(ValueError, match=says):
        numbered_data(count, seed=seed).load_state_dict(state)


# ---- epochs ------------------------------------------------------------------------------------------------------


class Redrawn(Numbered):
    def draw(self, index: int, epoch: int) -> Item:
        return Item(**{**self[index], "id": f"{index}@{epoch}"})  # type: ignore[typeddict-item]


def test_clips_that_change_with_the_epoch_are_told_which_it_is() -> None:
    data = numbered_data(5, batch_size=5)
    data.train = Redrawn(5)
    assert [set(step) for step in ids(data, 3)] == [{f"{i}@{epoch}" for i in range(5)} for epoch in range(3)]


# ---- clips that cannot be read, and mistakes ----------------------------------------------------------------------


class Broken(Numbered):
    """Every clip below `bad` is replaced by clip `bad`."""

    def __init__(self, count: int, bad: int) -> None:
        super().__init__(count)
        self.bad = bad

    def __getitem__(self, index: int) -> Item:
        if index >= self.bad:
            return super().__getitem__(index)
        if self.bad == self.count:
            raise BadClips("none of 20 clips tried can be used: 0 (broken)")
        item = super().__getitem__(self.bad)
        item["skipped"] = (Skipped(str(index), "broken"),)
        return item


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_clips_are_counted_once_and_listed_at_the_end(
    num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = numbered_data(10, val=None, num_workers=num_workers, max_bad_share=0.3)
    data.train = Broken(10, bad=3)
    ids(data, 20)
    assert data.skipped == {"0": "broken", "1": "broken", "2": "broken"}
    caplog.clear()
    data.teardown("fit")
    assert [sum(f"{id} (broken)" in record.getMessage() for record in caplog.records) for id in "0123"] == [1, 1, 1, 0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_bad_clips_stop_the_run_with_the_list(num_workers: int) -> None:
    data = numbered_data(10, val=None, num_workers=num_workers, max_bad_share=0.2)
    data.train = Broken(10, bad=3)
    with pytest.raises(BadClips, match=r"3 of 10 clips .*max_bad_share=0.2: .*\(broken\)") as error:
        ids(data, 20)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_from_a_worker_is_one_line_too(num_workers: int) -> None:
    data = numbered_data(4, val=None, num_workers=num_workers)
    data.train = Broken(4, bad=4)
    with pytest.raises(BadClips) as error:
        ids(data, 1)
    assert str(error.value) == "none of 20 clips tried can be used: 0 (broken)"


class Stuck(Numbered):
    def __getitem__(self, index: int) -> Item:
        import time

        time.sleep(60)
        raise AssertionError


def test_a_worker_that_hangs_ends_the_run() -> None:
    data = numbered_data(4, num_workers=1, timeout=1)
    data.train = Stuck(4)
    with pytest.raises(ValueError, match="data.timeout=1 s.*validate_data"):
        ids(data, 1)


def test_empty_data_and_too_few_validation_clips_are_errors() -> None:
    with pytest.raises(ValueError, match="no clips to train on"):
        numbered_data(0).setup("fit")
    with pytest.raises(ValueError, match="0 validation clips"):
        numbered_data(4, val=0).setup("fit")


def test_clips_of_another_shape_than_the_config_says_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2, 4, 6\).*\(3, 2, 4, 5\)"):
        ids(numbered_data(4, width=5), 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("num_workers", -1), ("seed", -1), ("fps", 0), ("max_bad_share", 1.5), ("num_frames", 0)],
)
def test_illegal_settings_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"data.{name}={value}"):
        numbered_data(4, **{name: value})  # type: ignore[arg-type]


def test_batch_is_what_the_trainer_can_move() -> None:
    from lightning.pytorch.utilities import move_data_to_device

    batch = collate([Numbered(3)[1]])
    assert isinstance(move_data_to_device(batch, torch.device("meta")), Batch)
