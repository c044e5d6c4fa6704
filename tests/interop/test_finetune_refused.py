"""What cannot be trained from, or with, is one line, and nothing is written."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dit import entry
from tests.interop.tuning import LORA, convert, train

pytest.importorskip("diffusers")
pytest.importorskip("peft")


def test_mistakes_with_adapters(wan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="atention.qkv names no Linear layer; blocks have attention.qkv, attention.out, c"
    ):
        train("lora", 1, *LORA, "lora.targets=[atention.qkv]")
    with pytest.raises(Exception) as caught:  # noqa: B017 - which kind is for `explain` to say
        train("lora", 1, "lora=default", "lora.rank=0")
    assert entry.explain(caught.value) == "lora.rank=0 must be at least 1; 16 is usual"
    with pytest.raises(Exception) as caught:  # noqa: B017
        train("lora", 1, "lora=default", "lora.targets=attention.qkv")
    assert "targets=attention.qkv is not a list" in (entry.explain(caught.value) or "")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="pip install -r requirements-lora.txt"):
        train("lora", 1, *LORA)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["init_from=wan", "init_strict=perhaps"], "init_strict=perhaps must be true or false"),
        (["init_from=wan", "init_weights=ema"], "init_weights=ema: wan is no run, so it has no averages"),
        (["init_from=some.pt"], "some.pt is a pickle, which may run code when it is read: convert it once"),
        (["init_from=some.safetensors"], "init_from=some.safetensors is a single file: give the folder of diffusers"),
        (["init_from=nowhere.pt"], "init_from=nowhere.pt: no checkpoint at nowhere.pt; give a run directory"),
    ],
)
def test_first_weights_that_are_none(overrides: list[str], said: str, wan: Path, folder: Path) -> None:
    Path("wan").symlink_to(wan)
    Path("some.pt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")  # what a pickle may do
    Path("some.safetensors").write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(said)) as caught:
        train("none", 1, *overrides)
    assert "\n" not in str(caught.value) and not Path("runs").exists() and not Path("ran").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["wan", "out", "--weights", "raw"], "--weights raw is of runs and checkpoints of ours; wan is none"),
        (["wan", "out", "--preset", "sit_s_2"], "--preset sit_s_2 is of a safetensors file of DiT or SiT; wan is none"),
        (["wan", "out", "--class-name", "X"], "--class-name X is of diffusers, and out would be written --to ours"),
        (["some.pt", "out"], "some.pt is a pickle, which may run code when it is read"),
    ],
)
def test_options_that_would_do_nothing(
    arguments: list[str], said: str, wan: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("wan").symlink_to(wan)
    Path("some.pt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ValueError, match=re.escape(said)):
        convert(monkeypatch, *arguments)
    assert not Path("out").exists() and not Path("ran").exists()


def test_what_the_network_needs_and_does_not_get(folder: Path) -> None:
    """Said before there is a run directory."""
    with pytest.raises(ValueError, match="net.text_width=24, but the text encoder 16; add net.text_width=16"):
        train("wide", 1, "net.text_width=24")
    with pytest.raises(ValueError, match="pooled features are 16 wide, and this network reads 768: set net.vec"):
        train("pooled", 1, "net/pooled=mlp_768")
    with pytest.raises(ValueError, match="this network reads class labels, and the data has none"):
        train("labelled", 1, "net/label=classes", "data.train.labels=[]", "data.val.labels=[]")
    with pytest.raises(ValueError, match="net.out_channels=9, but the codec gives 3; add net.out_channels=3"):
        train("variance", 1, "net.out_channels=9")  # 6 is a variance beside what is trained
    assert not Path("runs").exists()
