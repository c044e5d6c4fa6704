"""Which device a trainer takes."""

from __future__ import annotations

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from dit.config.build import build
from dit.engine.training import Training
from dit.entry import CONFIGS


def training(*overrides: str) -> Training:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        node = OmegaConf.to_container(hydra.compose("train", list(overrides)).trainer, resolve=True)
    return build(node, "trainer")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("accelerator", "there", "device"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("gpu", True, "cuda"),
        ("cuda", True, "cuda"),
    ],
)
def test_the_device(accelerator: str, there: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(there))
    assert training(f"trainer.accelerator={accelerator}").device_type == device


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there_is_no_cpu(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"trainer.accelerator={accelerator}, but torch sees no GPU here"):
        training(f"trainer.accelerator={accelerator}")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["trainer.devices=2"],
            r"trainer.devices=2, but this trainer uses one device: trainer=ddp trainer.devices=2, or",
        ),
        (["trainer.num_nodes=3"], r"trainer.num_nodes=3, but this trainer uses one device"),
        (["trainer.devices=0"], r"trainer.devices=0 must be auto or a whole number, at least 1"),
        (["trainer.devices=all"], r"trainer.devices=all must be auto or a whole number"),
        (["trainer=ddp", "trainer.devices=3"], r"trainer.devices=3, but torch sees 2 GPUs here"),
    ],
)
def test_a_number_of_devices_that_cannot_be(overrides: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=words):
        training(*overrides)


def test_a_number_of_devices_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert training("trainer.devices=1").world_size == 1
    assert training("trainer=ddp").world_size == training("trainer=ddp", "trainer.devices=2").world_size == 2
    assert training("trainer=ddp", "trainer.num_nodes=2").world_size == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training("trainer=ddp", "trainer.devices=3").world_size == 3  # processes on the CPU


def test_how_many_ranks_share_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one process, of Lightning's own launcher, of torchrun, and of SLURM."""
    assert training("trainer.devices=1").processes_here == 1
    several = training("trainer=ddp", "trainer.devices=3", "trainer.num_nodes=2", "trainer.accelerator=cpu")
    assert (several.processes_here, several.world_size) == (3, 6)
    with monkeypatch.context() as torchrun:
        torchrun.setenv("LOCAL_WORLD_SIZE", "4")
        torchrun.setenv("WORLD_SIZE", "8")
        assert (several.processes_here, several.world_size) == (4, 8)
    for name, value in {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "10", "SLURM_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    assert (several.processes_here, several.world_size) == (5, 10)
