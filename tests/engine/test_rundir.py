"""Who a run directory belongs to, what a sweep's jobs are called, and first weights from elsewhere."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import pytest
import yaml

from dit import entry
from dit.engine import initial, run, rundir
from tests import commands
from tests.engine import small
from tests.engine.runs import changed, config, found, leave_checkpoint

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Each line composes once, because composing takes longer than comparing.
STILL_RESUMES = (
    [
        "trainer=fsdp2", "logger=tensorboard", "preview.every=7", "callbacks.checkpoints.every=5", "solver=heun",
        "callbacks.validation.every=9", "callbacks.metrics.every=3", "ema.use=wide", "net/kernel=sdpa",
    ],
    [
        "trainer=ddp", "trainer.devices=2", "trainer.max_steps=500000", "trainer.precision=bf16-mixed", "logger=none",
        "preview=none", "data.num_workers=3", "callbacks.checkpoints.keep=1", "sampling.num_steps=3",
    ],
)  # fmt: skip
OTHER_GROUPS = [
    "net/position=sincos", "prediction=eps", "path=vp", "levels=uniform", "weighting=min_snr", "conditioning=tasks",
    "space=x0", "data=world", "optim=muon", "lr_schedule=wsd", "ema=constant",
]  # fmt: skip
OTHER_VALUES = {
    "net.depth": (4, 2), "levels.mean": (0.0, 1.5), "data.train.num_clips": (100000, 7),
    "optim.lr": (0.0001, 0.5), "seed": (0, 1), "caption_dropout": (0.1, 0.5),
    "trainer.gradient_clip_norm": (1.0, None), "text.depth": (1, 2),
}  # fmt: skip


def test_what_may_change_and_what_may_not(folder: Path) -> None:
    base, mine = config(), rundir.check_name("mine")
    assert found(mine, base).checkpoint is None
    leave_checkpoint(mine, base)
    assert found(mine, base).checkpoint == mine / "checkpoints/last.ckpt"
    for overrides in STILL_RESUMES:
        assert rundir.differences(base, config(*overrides)) == []
    swapped = config(*OTHER_GROUPS)
    refused = [
        ({**base, group: swapped[group]}, f"{group}.")
        for group in (o.split("=")[0].split("/")[0] for o in OTHER_GROUPS)
    ]
    refused += [
        (changed(base, key, now), f"{key} was {before!r}, now {now!r}") for key, (before, now) in OTHER_VALUES.items()
    ]
    for other, said in refused:
        with pytest.raises(rundir.OtherRun) as caught:
            found(mine, other)
        assert f"runs/mine belongs to another config: {said}" in str(caught.value)
        assert "\n" not in str(caught.value)
    four = base
    for key in ("net.depth", "net.width", "net.heads", "seed"):
        four = changed(four, key, 99)
    with pytest.raises(rundir.OtherRun, match=r"net.width.*net.depth.*net.heads.*\(and 1 more\)"):
        found(mine, four)


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    (folder / "runs/mine").mkdir(parents=True)
    (folder / "runs/mine/thesis.txt").write_text("do not lose")
    with pytest.raises(rundir.OtherRun, match="is not a run of ours"):
        found(Path("runs/mine"), config())
    assert [p.name for p in Path("runs/mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["", "../x", "a/../b", "/a", "a/", "a//b", "a/.b", "a=b", ".hidden", "a b", "a/b c"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="name="):
        rundir.check_name(name)


def test_a_name_in_a_folder_and_never_in_a_run(folder: Path) -> None:
    """As those of an ablation, whose runs lie in one folder."""
    assert rundir.check_name("position/rope3d-seed.0") == Path("runs/position/rope3d-seed.0")
    rundir.write_config(Path("runs/position"), config())
    with pytest.raises(ValueError, match="runs/position is a run, and a run lies in no other"):
        rundir.check_name("position/rope3d-seed.0")
    Path("runs/file").touch()
    with pytest.raises(ValueError, match="runs/file is a file"):
        rundir.check_name("file/mine")
    rundir.write_config(Path("runs/many/one"), config())
    with pytest.raises(rundir.OtherRun, match="is not a run of ours"):
        rundir.config_of(Path("runs/many"))


def test_previews_are_tried_before_the_first_step(folder: Path) -> None:
    base = config(*(each for each in TINY if not each.startswith("preview")), "preview=videos")
    bad = changed(base, "sampling.num_steps", 0)
    with pytest.raises(ValueError, match=r"no preview could be made: num_steps=0 must be a whole number, at least 1"):
        run.train(bad)
    pyramid = {"_target_": "dit.sampling.schedule.Pyramid", "schedule": base["schedule"], "group": 1, "lag": 2}
    with pytest.raises(ValueError, match="this network was trained with one a clip; train with levels=per_frame"):
        run.train(changed(base, "sampling.schedule", pyramid))
    assert not (folder / "runs").exists()


TINY = (
    "net.depth=1", "net.width=32", "net.heads=2", "text.depth=1", "data.batch_size=2", "preview=none", "logger=none",
)  # fmt: skip


def test_mistakes_are_one_line_and_write_nothing(folder: Path) -> None:
    base = config(*TINY)
    for key, value, said in (
        ("data.num_frames", 7, "nearest"),
        ("data.height", 36, "nearest"),
        ("net.in_channels", 4, "net.in_channels=4, but the codec gives 3"),
        ("name", "a/../b", "name='a/../b'"),
        ("init_from", "runs/nowhere", "no checkpoint at runs/nowhere"),
        ("trainer.precision", "fp8", "precision=fp8"),
        ("caption_dropout", 2, "caption_dropout=2 is a probability"),
        ("data.train.num_clips", 0, "num_clips=0"),
        ("trainer.gradient_clip_norm", float("nan"), "nan"),
        ("trainer.max_steps", 1.5, "max_steps=1.5"),
        ("trainer.compile_mode", "fast", "compile_mode=fast"),
        ("trainer.matmul_precision", "low", "matmul_precision=low"),
        ("optim.lr", -1, "lr=-1"),
        ("optim.betas", [1, 1], "betas"),
        ("lr_schedule.final", float("inf"), "final=inf"),
    ):
        given = changed(base, key, value)
        with pytest.raises(Exception) as caught:  # noqa: B017 - which kind is for `explain` to say
            run.train(given)
        line = entry.explain(caught.value)
        assert line is not None and "\n" not in line and said in line, (key, line, caught.value)
        assert not Path("runs/mine/config.yaml").exists(), key


def test_finished_runs_say_so_and_damaged_ones_too(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(*TINY)
    mine = rundir.check_name("mine")
    leave_checkpoint(mine, cfg, 100000)
    with caplog.at_level("INFO"):
        run.train(cfg)
    assert "runs/mine is finished: 100000 steps" in caplog.text
    (mine / "checkpoints/last.ckpt").write_bytes(b"half")
    with pytest.raises(ValueError, match="last.ckpt cannot be read"):
        run.train(cfg)


def test_first_weights_come_from_another_run(tmp_path: Path) -> None:
    source = small.model(max_steps=3)
    small.train(source, tmp_path / "source", small.video_data())
    saved = small.load(tmp_path / "source")
    for which, wanted in (("raw", saved["state_dict"]), ("power", saved["ema"]["power"])):
        module = small.model(seed=5)
        initial.load(module, str(tmp_path / "source"), which, strict=True)
        assert small.same({k: v for k, v in module.state_dict().items() if k in wanted}, dict(wanted)) == []
    before = copy.deepcopy(small.model(seed=5).state_dict())
    module = small.model(seed=5, net=small.TinyNet(width=16))
    with pytest.raises(ValueError, match=r"init_from=.* net.embed.weight is \(8, 3\) there, \(16, 3\) here"):
        initial.load(module, str(tmp_path / "source"), "raw", strict=True)
    with pytest.raises(ValueError, match="init_weights=slow is not in .*; there are: raw, ema, fast, power"):
        initial.load(module, str(tmp_path / "source"), "slow", strict=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        initial.load(module, str(tmp_path / "nowhere"), "raw", strict=True)
    assert before.keys() == small.model().state_dict().keys()


@pytest.mark.slow
def test_a_sweep_gives_each_job_its_own_run(tmp_path: Path) -> None:
    """Two settings swept, one fixed; launched again it finds all four finished. Several processes a job are refused."""
    arguments = [
        "-m", *TINY, "name=s", "trainer.max_steps=1", "net/position=rope3d,sincos", "seed=0,1",
        "callbacks.validation.every=null", "callbacks.progress.seconds=0",
    ]  # fmt: skip

    def launch(*more: str) -> subprocess.CompletedProcess[str]:
        return commands.run("train.py", *arguments, *more, cwd=tmp_path)

    first = launch()
    assert first.returncode == 0, first.stderr[-3000:]
    names = {f"s-position.{p}-seed.{s}" for p in ("rope3d", "sincos") for s in (0, 1)}
    made = {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()}
    assert made == names
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    refused = launch("trainer=ddp", "trainer.devices=2")
    assert refused.returncode == 2
    said = refused.stderr.strip().splitlines()
    assert said[0].startswith("error: a sweep (-m) cannot start several processes")
    assert "error: 4 jobs of the sweep failed:" in said and said[-1].startswith("  s-position.sincos-seed.1: a sweep")


def test_a_config_that_was_never_finished_does_not_block_the_name(tmp_path: Path) -> None:
    (tmp_path / rundir.PART).write_text("seed: 0")
    assert rundir.config_of(tmp_path) is None
    (tmp_path / "video.mp4").touch()
    with pytest.raises(rundir.OtherRun):
        rundir.config_of(tmp_path)


def test_first_weights_from_a_damaged_file_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "cut.ckpt"
    file.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"init_from=.*cut\.ckpt cannot be read as a checkpoint .*: take another one"):
        initial.load(small.model(), str(file), "raw", strict=True)


def test_a_run_keeps_the_positions_that_it_began_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers that the codec says by now: null asks for whatever the run had, another number is another network."""
    today = config("net=ltx_video_tiny", "net.in_channels=3", "net.out_channels=3")
    position = today["net"]["position"]
    assert position["stride"] is None and position["first"] is None
    began = {"stride": {"f": 8.0, "h": 32.0, "w": 32.0}, "first": 1.0}
    before = {**today, "net": {**today["net"], "position": {**position, **began}}}
    (tmp_path / rundir.CONFIG).write_text(yaml.safe_dump(before))
    assert rundir.as_begun(tmp_path, today) == before
    assert "keeps net.position.first=1.0, which it began with" in caplog.text
    other = changed(today, "net.position.first", 8.0)
    assert rundir.as_begun(tmp_path, other)["net"]["position"]["first"] == 8.0
    assert rundir.as_begun(tmp_path / "new", today) is today
