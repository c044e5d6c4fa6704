"""A user's mistake is one line and exit code 2; a bug keeps its traceback."""

import errno
import os
import sys

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from dit.codec.pixel import PixelCodec
from dit.entry import explain, main, one_line_errors


def failing(make) -> Exception:
    try:
        make()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_our_own_message_is_shown_in_one_line() -> None:
    error = failing(lambda: PixelCodec(scale=-1))
    assert explain(error) == "scale=-1 must be above 0; 1.0 leaves pixels as they are"


def test_hydra_wrapping_is_taken_off() -> None:
    error = failing(lambda: instantiate({"_target_": "dit.codec.pixel.PixelCodec", "scale": -1.0}))
    assert isinstance(error, InstantiationException)
    assert explain(error) == "scale=-1.0 must be above 0; 1.0 leaves pixels as they are"


def test_a_bug_keeps_its_traceback() -> None:
    import torch

    assert explain(failing(lambda: torch.zeros(2).view(3))) is None  # a RuntimeError of a library
    assert (
        explain(failing(lambda: __import__("json").loads("{"))) is None
    )  # a ValueError raised outside this repository
    assert explain(failing(lambda: {}["x"])) is None
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("x")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_what_the_disk_refuses_is_no_bug() -> None:
    """From whatever library: a full disk, one that is read-only, a file of somebody else."""
    full = failing(lambda: open("/dev/full", "w", buffering=1).write("line\n"))  # noqa: SIM115
    assert isinstance(full, OSError) and full.errno == errno.ENOSPC
    again = "see to that and give the same command again"
    assert explain(full) == f"a file cannot be written: No space left on device; {again}"

    def raises(number: int) -> None:
        raise OSError(number, os.strerror(number), "runs/a/config.yaml")

    for number, reason in ((errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied")):
        said = explain(failing(lambda number=number: raises(number)))
        assert said == f"runs/a/config.yaml: {reason}; {again}"
    assert explain(failing(lambda: raises(errno.EBADF))) is None  # a bug of ours


def test_exit_code(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop, one_line_errors():
        PixelCodec(scale=-1)
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: scale=-1") and printed.count("\n") == 1


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"RANK": "0", "LOCAL_RANK": "0"}, "error: scale=-1"),
        ({"RANK": "1", "LOCAL_RANK": "1"}, ""),
        ({"RANK": "8", "LOCAL_RANK": "0"}, "error: scale=-1"),  # of another node, where a file may be missing
        ({"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, ""),
    ],
)
def test_one_rank_speaks_for_all(
    environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop, one_line_errors():
        PixelCodec(scale=-1)
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.startswith(said) and printed.count("\n") == bool(said)


def test_a_rank_at_work_speaks_for_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """It may be the only one whose data is broken."""
    import torch.distributed as dist

    monkeypatch.setenv("LOCAL_RANK", "1")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(SystemExit), one_line_errors():
            PixelCodec(scale=-1)
    finally:
        dist.destroy_process_group()
    assert capsys.readouterr().err.startswith("error: rank 0: scale=-1")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["experiment=demo", "net.dpeth=3"], "unknown config key 'net.dpeth'; did you mean net.depth"),
        (
            ["net=latte_tiny", "net.concat_channels={given: 1}"],
            "cannot set net.concat_channels: it has no key 'given'; +net.concat_channels.given=... adds one",
        ),
        (["experiment=demo", "net=dit_s_3"], "there is no config 'net/dit_s_3'; did you mean dit_s_2"),
        (
            ["codec=tiny", "codec.tiling.height=8"],
            "error: codec.tiling.height is a value of codec/tiling=tiles, which is not chosen: give that, too\n",
        ),
        (
            ["experiment=demo", "optim.betas=[0.9,0.9]"],
            "optim.betas is a value of optim=adamw, which is not chosen: give that, too; or did you mean optim.adamw",
        ),
        (["experiment=demo", "optim=adamw", "optim.bets=1"], "unknown config key 'optim.bets'; did you mean optim.be"),
        (["net/positoin=sincos"], "unknown config key 'net/positoin'; did you mean net/position"),
        (["experiment=demoo"], "there is no config 'experiment/demoo'; did you mean demo"),
        (
            ["experiment=demo", "net.depth"],
            "'net.depth' is not key=value; put a value with spaces",
        ),
        (["experiment=demo", "net.pattern=F, (S"], "cannot read net.pattern=F, (S: it has a sign that means something"),
        (["experiment=demo", "net.größe=1"], "'net.größe' is no config key: keys have letters, digits"),
        (["experiment=demo", "nett=demo"], "nett"),
        (["experiment=demo", "net=_mochi"], "error: net=_mochi is no choice, but what these share: mochi, mochi_tiny;"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    ran = []
    with pytest.raises(SystemExit) as stop:
        main("train")(lambda config: ran.append(config))()
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and not ran
    assert printed.startswith("error: ") and printed.count("\n") == 1 and said in printed, printed
    assert not list(tmp_path.iterdir()), "nothing may be written"


def test_a_key_of_a_suite_that_is_not_asked_for_names_that_suite(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "ckpt=runs/demo", "suite.surprise.num_fours=4"])
    with pytest.raises(SystemExit):
        main("evaluate")(lambda config: None)()
    said = "error: suite.surprise.num_fours is a value of suite=surprise, which is not chosen: give that, too\n"
    assert capsys.readouterr().err == said
