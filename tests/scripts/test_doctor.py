"""The doctor finds what works, and notices each thing that we break for it."""

from pathlib import Path

import pytest
import torch

from scripts import doctor
from scripts.doctor import BROKEN, NOTE, OK, Finding


def by_name(findings) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture(autouse=True)
def quick_matmul(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dit.rates.measured_matmul_rate", lambda device, dtype: 123e9)


def test_whole_report_here(capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.main()
    out = capsys.readouterr().out
    for words in (f"torch                  {torch.__version__.partition('+')[0]}", "123 GFLOP/s", "no mask", "csv"):
        assert words in out
    assert (code == 0) == ("everything that is needed works" in out)


@pytest.mark.parametrize(("seconds", "state"), [(9.0, NOTE), (0.5, OK)])
def test_slow_bfloat16_is_noted(seconds: float, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dit.machine.bfloat16_slowdown", lambda: seconds)
    found = by_name(doctor.devices())["cpu in bfloat16"]
    assert found.state == state and found.detail == f"a product takes {seconds:.2g} times as long as in float32"
    assert found.advice is not None and "trainer.precision=32-true" in found.advice


def test_a_needed_package_that_is_missing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in ("einops", "wandb") else real(name))
    found = by_name(doctor.packages())
    assert (found["einops"].state, found["einops"].advice) == (BROKEN, "pip install -r requirements.txt")
    assert found["wandb"].state == NOTE
    assert found["torch"].state != BROKEN  # of another version than the pin it may be


def test_another_version_than_the_pin_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: "2.10.0+cu128" if name == "torch" else "0.0.1")
    found = by_name(doctor.packages())
    assert found["torch"].state == OK  # the build does not matter
    assert found["einops"].state == NOTE
    assert found["einops"].detail.startswith("0.0.1, pinned ==")


def test_every_dispensable_package_is_pinned() -> None:
    assert set(doctor.DISPENSABLE) <= set(by_name(doctor.packages()))


def test_attention_names_the_choice_and_the_refusals() -> None:
    found = list(doctor.attention())
    choices = [finding for finding in found if finding.state == OK]
    assert {finding.name.partition(", ")[2] for finding in choices} == {
        "no mask",
        "KeyPadding",
        "Packed",
        "ByCoordinates",
    }
    assert all("," in finding.name and finding.detail in ("SDPA", "XFormers", "Flex") for finding in choices)
    if not torch.cuda.is_available():
        assert {finding.detail for finding in choices} == {"SDPA"}
        assert any(finding.detail.startswith("not XFormers: ") for finding in found)


def test_decoders_read_the_clip_and_agree() -> None:
    found = by_name(doctor.video())
    assert found["encoder"].state == OK
    assert found["PyAV"].state == OK
    assert "decodes 8 frames" in found["PyAV"].detail
    if found["decord"].state == OK:
        assert "equal to PyAV's bit for bit" in found["decord"].detail


def spoil_last(frames: torch.Tensor) -> torch.Tensor:
    frames = frames.clone()
    frames[-1, 0, 0, 0] += 7
    return frames


@pytest.mark.parametrize(
    ("spoil", "state", "words"),
    [
        (lambda frames: frames[:-1], NOTE, "gave (7, 48, 64, 3) for a clip of (8, 48, 64, 3)"),
        (lambda frames: frames.flip(0), NOTE, "frames are wrong"),
        (lambda frames: 255 - frames, NOTE, "frames are wrong"),
        (spoil_last, OK, "differs from PyAV's by up to 7 of 255"),
    ],
    ids=["short", "backwards", "inverted", "one value"],
)
def test_a_decoder_that_lies_is_noticed(monkeypatch: pytest.MonkeyPatch, spoil, state: str, words: str) -> None:
    liar = {"PyAV": doctor.read_pyav, "liar": lambda path: spoil(doctor.read_pyav(path))}
    monkeypatch.setattr(doctor, "DECODERS", liar)
    found = by_name(doctor.video())["liar"]
    assert found.state == state
    assert words in found.detail


def test_no_decoder_at_all_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(path: Path) -> torch.Tensor:
        raise ModuleNotFoundError("No module named 'decord'", name="decord")

    def failing(path: Path) -> torch.Tensor:
        raise RuntimeError("cannot\nopen")

    monkeypatch.setattr(doctor, "DECODERS", {"missing": missing, "failing": failing})
    monkeypatch.setattr(doctor, "SECTIONS", {"video": doctor.video})
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "not installed" in out
    assert "does not decode: RuntimeError: cannot open" in out
    assert "broken: decoders: none works -> pip install" in out


def test_a_check_that_dies_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def dies():
        yield Finding(OK, "first", "fine")
        raise OSError("no such thing")

    monkeypatch.setattr(doctor, "SECTIONS", {"dying": dies, "loggers": doctor.loggers})
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "broken: dying: OSError: no such thing" in out
    assert "csv" in out


def test_little_room_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name(doctor.room())["disk"].detail.endswith("GiB free")
    monkeypatch.setattr(doctor, "memory_available", lambda: 1 * doctor.GIB)
    monkeypatch.setattr(doctor, "NEEDED_DISK", 10**18)
    found = by_name(doctor.room())
    assert (found["memory"].state, found["disk"].state) == (NOTE, NOTE)
    assert found["disk"].advice == "make room"
