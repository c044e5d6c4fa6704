"""What a run goes on from, what must be equal for that, and what may be changed on the way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dit.checkpoint import entries
from dit.engine import resume, rundir
from tests.engine.runs import AnyClips, changed, config, found, leave_checkpoint

pytestmark = pytest.mark.timeout(900)
BASE = config("trainer.max_steps=100", "lr_schedule=constant")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("runs/mine")


def spoil(file: Path) -> None:
    """Flips a bit of a tensor, in place: all names of the file see it."""
    with file.open("r+b") as opened:
        content = opened.read()
        opened.seek(content.index(b"global_step"))
        opened.write(b"Global_step")


def base(**changes: Any) -> dict[str, Any]:
    """The config of most of these runs with some keys (dots as __) set to other values."""
    result = BASE
    for key, value in changes.items():
        result = changed(result, key.replace("__", "."), value)
    return result


# -- which checkpoint


def test_a_missing_last_checkpoint_is_no_fresh_start(mine: Path) -> None:
    for step in (30, 60):
        leave_checkpoint(mine, BASE, step)
    last, sixty = mine / "checkpoints/last.ckpt", mine / "checkpoints/step-00000060.ckpt"
    last.unlink()
    start = found(mine, BASE)
    assert start.checkpoint == sixty and start.step == 60
    assert "last.ckpt is missing; going on from the newest whole checkpoint, step-00000060.ckpt" in start.notes[0]
    for damaged in (b"", b"cut"):
        sixty.write_bytes(damaged)
        start = found(mine, BASE)
        assert start.step == 30 and "step-00000030.ckpt" in start.notes[0]
    resume.take(mine, start, BASE)  # the damaged one does not stand in the way
    assert found(mine, BASE).checkpoint == last and found(mine, BASE).step == 30
    assert [f.name for f in mine.glob("set_aside/*/checkpoints/*")] == ["step-00000060.ckpt"]
    last.unlink()
    (mine / "checkpoints/step-00000030.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match="last.ckpt is missing, and no other checkpoint of runs/mine is whole"):
        found(mine, BASE)


@pytest.mark.parametrize("goal", ["step-00000030.ckpt", "runs/mine/checkpoints/step-00000030.ckpt", "gone.ckpt"])
def test_links(mine: Path, goal: str) -> None:
    """One beside it, one that counts from the wrong folder, and one to nowhere."""
    for step in (30, 60):
        leave_checkpoint(mine, BASE, step)
    last = mine / "checkpoints/last.ckpt"
    last.unlink()
    last.symlink_to(goal)
    start = found(mine, BASE)
    assert start.step == (60 if goal == "gone.ckpt" else 30)
    assert ("a link to" in " ".join(start.notes)) == (goal != "step-00000030.ckpt")
    resume.take(mine, start, BASE)
    assert found(mine, BASE).step == start.step
    assert len(list(mine.glob("set_aside/*/checkpoints/step-00000060.ckpt"))) == (goal != "gone.ckpt")


def test_a_link_to_nowhere_alone_and_a_folder(mine: Path) -> None:
    leave_checkpoint(mine, BASE, 60).unlink()
    last = mine / "checkpoints/last.ckpt"
    last.unlink()
    last.symlink_to("gone.ckpt")
    with pytest.raises(ValueError, match=r"is a link to gone.ckpt, .* nor is any other checkpoint: mend the link, or"):
        found(mine, BASE)
    last.unlink()
    last.mkdir()
    with pytest.raises(ValueError, match="is a folder, not a checkpoint: move it away; there are none"):
        found(mine, BASE)


def test_a_damaged_checkpoint_names_the_one_before(mine: Path) -> None:
    for step in (30, 60):
        leave_checkpoint(mine, BASE, step)
    spoil(mine / "checkpoints/step-00000060.ckpt")  # last.ckpt is the same file
    with pytest.raises(ValueError) as caught:
        found(mine, BASE)
    assert "last.ckpt cannot be read (bits of its record" in str(caught.value)
    assert "the newest whole one is step-00000030.ckpt: resume_from=30 goes on from it" in str(caught.value)
    start = found(mine, base(resume_from=30))
    assert start.step == 30 and start.goes_back
    resume.take(mine, start, base(resume_from=30))
    assert found(mine, BASE).step == 30
    shutil.rmtree(mine / "checkpoints")
    spoil(leave_checkpoint(mine, BASE, 60))
    with pytest.raises(ValueError, match="no other checkpoint of the run is whole: choose another name"):
        found(mine, BASE)


def test_going_back_sets_aside_and_deletes_nothing(mine: Path) -> None:
    for step in (30, 60, 90):
        leave_checkpoint(mine, BASE, step)
        for file in (f"samples/step-{step:08d}/a.mp4", f"ema/step-{step:08d}-narrow.ckpt"):
            (mine / file).parent.mkdir(parents=True, exist_ok=True)
            (mine / file).write_text(str(step))
    (mine / "samples/001").mkdir()
    (mine / "metrics.csv").write_text("step,train/loss\n30,1.0\n60,0.5\n90,0.25\n")
    asked = base(resume_from=60)
    start = found(mine, asked)
    assert start.checkpoint == mine / "checkpoints/step-00000060.ckpt"
    resume.take(mine, start, asked)
    (aside,) = (mine / "set_aside").iterdir()
    assert aside.name.endswith("-behind-step-00000060")
    moved = sorted(str(f.relative_to(aside)) for f in aside.rglob("*") if f.is_file())
    assert moved == [
        "checkpoints/step-00000090.ckpt", "ema/step-00000090-narrow.ckpt", "metrics.csv", "samples/step-00000090/a.mp4"
    ]  # fmt: skip
    assert "90,0.25" in (aside / "metrics.csv").read_text()
    here = sorted(f.name for f in (mine / "checkpoints").iterdir())
    assert here == ["last.ckpt", "step-00000030.ckpt", "step-00000060.ckpt"]
    assert (mine / "samples/001").is_dir() and (mine / "samples/step-00000060/a.mp4").is_file()
    # The same command again, as after a time limit, goes on; another one may go back again.
    leave_checkpoint(mine, asked, 75)
    again = found(mine, asked)
    assert again.step == 75 and "has gone back to resume_from=60 already" in again.notes[0]
    assert found(mine, {**asked, "resume_from": 30}).step == 30
    assert found(mine, {**asked, "resume_from": str(aside / "checkpoints/step-00000090.ckpt")}).step == 90


def test_what_a_kill_left_half_written_is_not_set_aside(mine: Path) -> None:
    leave_checkpoint(mine, BASE, 60)
    (mine / "samples/step-00000090").mkdir(parents=True)
    for name in ("a.mp4", ".b.mp4.4711.part"):
        (mine / "samples/step-00000090" / name).write_text("90")
    asked = base(resume_from=60)
    resume.take(mine, found(mine, asked), asked)
    assert [file.name for file in mine.glob("set_aside/*/samples/*/*")] == ["a.mp4"]


def test_steps_and_files_that_are_not_there(mine: Path) -> None:
    leave_checkpoint(mine, BASE, 60)
    with pytest.raises(FileNotFoundError, match="resume_from=45: .* there are checkpoints of steps 60"):
        found(mine, base(resume_from=45))
    with pytest.raises(FileNotFoundError, match="nowhere.ckpt"):
        found(mine, base(resume_from="nowhere.ckpt"))
    (mine / "checkpoints/step-x.ckpt").touch()  # not one of ours
    assert found(mine, base(resume_from="step-00000060.ckpt")).step == 60


def test_a_branch_under_another_name(mine: Path) -> None:
    leave_checkpoint(mine, BASE, 60)
    (mine / "checkpoints/frozen.pt").write_bytes(b"beside")
    other = Path("runs/other")
    asked = base(name="other", resume_from=str(mine))
    start = found(other, asked)
    resume.take(other, start, asked)
    assert {f.name for f in (other / "checkpoints").iterdir()} == {"last.ckpt", "step-00000060.ckpt", "frozen.pt"}
    assert found(other, asked).checkpoint == other / "checkpoints/last.ckpt"
    assert found(mine, BASE).step == 60


# -- who a run belongs to


def test_a_run_without_a_checkpoint_belongs_to_nobody(mine: Path) -> None:
    rundir.write_config(mine, BASE)
    (mine / "metrics.csv").write_text("step,train/loss\n20,1.0\n")
    (mine / "details.csv").write_text("step,name,value\n20,val/x0_error_level_0.1_frame_00,1.0\n")
    start = found(mine, base(net__depth=3))
    assert start.checkpoint is None and "this one takes it over" in start.notes[0]
    resume.take(mine, start, base(net__depth=3))
    assert rundir.config_of(mine) == base(net__depth=3)
    for table in ("metrics.csv", "details.csv"):  # and nothing of it is lost
        (aside,) = mine.glob(f"set_aside/*/{table}")
        assert aside.read_bytes() == (mine / table).read_bytes()
    leave_checkpoint(mine, base(net__depth=3))
    with pytest.raises(ValueError, match="has gone on meanwhile, in another process"):
        resume.take(mine, start, base(net__depth=3))


def test_the_checkpoint_decides_and_not_the_last_command(mine: Path) -> None:
    leave_checkpoint(mine, BASE)
    rundir.write_config(mine, base(optim__lr=0.5))  # it was killed before it had saved anything
    assert found(mine, BASE).changes == ()
    with pytest.raises(rundir.OtherRun, match=r"optim.lr was 0.0001, now 0.5\. .*resume_changes=\[optim.lr\]$"):
        found(mine, base(optim__lr=0.5))


def test_what_is_changed_on_purpose(mine: Path) -> None:
    leave_checkpoint(mine, BASE)
    start = found(mine, base(optim__lr=0.5, caption_dropout=0.2, resume_changes=["optim", "caption_dropout"]))
    assert start.changes == (("optim.lr", "0.0001", "0.5"), ("caption_dropout", "0.1", "0.2"))
    assert found(mine, base(resume_changes=["optim"])).changes == ()
    with pytest.raises(rundir.OtherRun, match=r"seed was 0, now 1.*resume_changes=\[optim,seed\]"):
        found(mine, base(optim__lr=0.5, seed=1, resume_changes=["optim"]))
    with pytest.raises(rundir.OtherRun) as caught:
        found(mine, base(net__depth=3, optim__lr=0.5))
    assert "resume_changes" not in str(caught.value)
    for key in ("net.depth", "optimizer", "text"):
        with pytest.raises(
            ValueError, match=rf"resume_changes=\[{key}\] cannot be changed on the way; what can: optim"
        ):
            found(mine, base(resume_changes=[key]))
    muon = {**config("trainer.max_steps=100", "lr_schedule=constant", "optim=muon"), "resume_changes": ["optim"]}
    with pytest.raises(
        ValueError, match="moments of another optimizer; a new run can begin with its weights: init_from"
    ):
        found(mine, muon)


# -- clips to a step


def test_equal_clips_to_a_step_and_no_others(mine: Path) -> None:
    leave_checkpoint(mine, base(data__batch_size=8, trainer__accumulate=2), rng=[0, 0])  # 8 x 2 ranks x 2
    for batch, ranks, accumulate in ((8, 2, 2), (16, 2, 1), (32, 1, 1), (4, 8, 1), (1, 1, 32)):
        start = found(mine, base(data__batch_size=batch, trainer__accumulate=accumulate), ranks)
        assert ("same clips" in " ".join(start.notes)) == ((batch, ranks, accumulate) != (8, 2, 2))
    with pytest.raises(ValueError) as caught:
        found(mine, base(data__batch_size=8, trainer__accumulate=2), 1)
    assert str(caught.value) == (
        "runs/mine: a step took 32 clips (data.batch_size=8 x 2 ranks x trainer.accumulate=2), and would take"
        " 16 (8 x 1 x 2): data.batch_size=16 or trainer.accumulate=4 keeps it;"
        " resume_changes=[data.batch_size] goes on with another number"
    )
    start = found(mine, base(data__batch_size=64, resume_changes=["data.batch_size"]), 1)
    assert "now 64 (64 x 1 x 1)" in start.notes[0]


def test_a_budget_of_tokens_counts_in_the_place_of_clips(mine: Path) -> None:
    def shaped(tokens: int | None, batch: int = 8) -> dict[str, Any]:
        data = {**BASE["data"], "batch_size": batch, "shapes": {"tokens": tokens}}
        return {**BASE, "data": data}

    leave_checkpoint(mine, shaped(1024), rng=[0, 0])
    assert found(mine, shaped(1024, batch=3), 2).notes == (), "the number of clips says nothing then"
    assert "a step still takes 2048 tokens" in found(mine, shaped(2048), 1).notes[0]
    with pytest.raises(ValueError) as caught:
        found(mine, shaped(1024), 1)
    assert str(caught.value) == (
        "runs/mine: a step took 2048 tokens (data.shapes.tokens=1024 x 2 ranks x trainer.accumulate=1), and would take"
        " 1024 (1024 x 1 x 1): data.shapes.tokens=2048 or trainer.accumulate=2 keeps it;"
        " resume_changes=[data.shapes.tokens] goes on with another number"
    )
    with pytest.raises(ValueError, match=r"take 16 clips \(data.batch_size=8\): data.shapes.tokens=1024 keeps it"):
        found(mine, shaped(None), 2)
    data = AnyClips()
    start = found(mine, {**shaped(512), "resume_changes": ["data.shapes.tokens"]}, 1, data)
    assert "a step took 2048 tokens" in start.notes[0] and not data.accepts_other_clips

    leave_checkpoint(mine, shaped(None), rng=[0])
    with pytest.raises(ValueError, match="8 clips .* take 512 tokens .*: data.batch_size=8 data.shapes.tokens=null"):
        found(mine, shaped(512))


# -- the learning rate


def decayed(max_steps: int, **changes: Any) -> dict[str, Any]:
    plain = config("lr_schedule=wsd_half", "optim.lr=0.02")
    return {**plain, "trainer": {**plain["trainer"], "max_steps": max_steps}, **changes}


def test_longer_runs_whose_rate_would_jump(mine: Path) -> None:
    leave_checkpoint(mine, decayed(40), 40, lr_factor=0.0)
    done = found(mine, decayed(40))
    said = resume.about_longer(done, decayed(40), resume_schedule(), mine)
    assert "the learning rate was 0, and with trainer.max_steps=80 it is 0.016" in said
    assert "name=... init_from=runs/mine" in said and "resume_lr=schedule" in said and "keep" not in said
    with pytest.raises(ValueError, match=r"rate was 0, and with trainer.max_steps=80 it is 0.0164 .* jump, unasked"):
        found(mine, decayed(80))
    with pytest.raises(ValueError, match="resume_lr=keep would go on at a learning rate of 0"):
        found(mine, decayed(80, resume_lr="keep"))
    start = found(mine, decayed(80, resume_lr="schedule"))
    assert start.held_lr_factor is None and "it is 0.016" in start.notes[0]
    with pytest.raises(ValueError, match="resume_lr=half must be keep, schedule, or null"):
        found(mine, decayed(80, resume_lr="half"))


def resume_schedule() -> Any:
    from dit.engine.lr_schedule import WarmupStableDecay

    return WarmupStableDecay(warmup_steps=50, decay_share=0.5, final=0.0)


def test_the_rate_is_held_where_asked(mine: Path) -> None:
    leave_checkpoint(mine, decayed(400), 300, lr_factor=0.25)
    with pytest.raises(ValueError, match=r"resume_lr=keep \(holds 25 % of the peak\) or resume_lr=schedule"):
        found(mine, decayed(800))
    start = found(mine, decayed(800, resume_lr="keep"))
    assert start.held_lr_factor == 0.25 and "held at 25 %" in start.notes[0]


def test_no_noise_where_the_rate_goes_on(mine: Path) -> None:
    leave_checkpoint(mine, decayed(400), 150, lr_factor=1.0)
    assert found(mine, decayed(800)).notes == ()  # stable in both
    old = {"lr_schedulers": [{"base_lrs": [0.0, 0.02], "_last_lr": [0.0, 0.01]}]}  # a checkpoint of before
    assert entries.lr_factor(old) == 0.5
    leave_checkpoint(mine, BASE, 60, lr_factor=0.61)  # in its warm-up
    longer = base(trainer__max_steps=1000)
    assert found(mine, longer).notes == ()
    done = resume.Start(checkpoint=mine, step=100, lr_factor=1.0)
    schedule = resume_schedule()
    schedule.decay_share = 0.0
    assert resume.about_longer(done, longer, schedule, mine) == "To go on: trainer.max_steps=200"


def test_nothing_of_this_is_written_by_looking(mine: Path) -> None:
    leave_checkpoint(mine, BASE)
    os.chmod(mine / "checkpoints", 0o555)
    try:
        before = sorted((str(f), f.stat().st_mtime_ns) for f in mine.rglob("*"))
        found(mine, base(resume_from=60))
        assert before == sorted((str(f), f.stat().st_mtime_ns) for f in mine.rglob("*"))
    finally:
        os.chmod(mine / "checkpoints", 0o755)
    assert torch.load(mine / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 60
