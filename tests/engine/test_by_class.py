"""Training and sampling by class: what the network is told, what is refused before step 0, and the whole way round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from data.batch import Batch
from dit.engine import run
from dit.interop.presets import CONFIGS
from dit.sampling.guidance import ClassifierFree
from dit.sampling.pipeline import Pipeline
from dit.signals.base import Around
from dit.signals.label import Label, class_number
from tests.engine import small

TINY = (
    "experiment=demo", "net=dit_tiny", "net.in_channels=3", "net.out_channels=3", "net.patch=[1,4,4]", "net.width=32",
    "net.heads=2", "text=none", "data.num_frames=3", "data.height=8", "data.width=8", "data.batch_size=2",
    "data.val.num_clips=2", "data.val_batch_size=2", "callbacks.validation.every=2", "sampling.num_steps=2",
    "preview.prompts=[red circle,3]", "trainer.accelerator=cpu", "name=classes",
)  # fmt: skip


def config(*overrides: str, of: Sequence[str] = TINY) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plain = OmegaConf.to_container(hydra.compose("train", [*of, *overrides]), resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dit_preset_trains_on_classes_and_samples_by_them(folder: Path) -> None:
    run.train(config("trainer.max_steps=2"))
    saved = small.load(folder / "runs" / "classes")
    assert saved["classes"][0] == "red circle" and len(saved["classes"]) == 18
    assert len(list((folder / "runs" / "classes" / "samples").rglob("*.mp4"))) == 2

    made = Pipeline.from_checkpoint("runs/classes", device="cpu", guidance=ClassifierFree(4.0, 0.0, (0.0, 1.0)))
    for parameter in made.net.vectors["label"].parameters():  # two steps have told the classes apart by little
        torch.nn.init.normal_(parameter, generator=torch.manual_seed(0))
    for block in made.net.blocks:
        torch.nn.init.normal_(block.modulation.linear.weight, std=0.5, generator=torch.manual_seed(1))
    torch.nn.init.normal_(made.net.final.linear.weight, std=0.5, generator=torch.manual_seed(2))
    by_name, by_number, other = made(["red triangle", "1", 3], [5, 5, 5]).latents
    assert torch.equal(by_name, by_number) and not torch.equal(by_name, other)
    with pytest.raises(ValueError, match="class 'red square' is not known.* or names: red bar"):
        made(["red square"], [0])

    run.train(config("trainer.max_steps=3", "resume_lr=schedule"))  # goes on
    with pytest.raises(ValueError, match="this run's classes were red circle, .* and are now circle, triangle, bar"):
        run.train(
            config(
                "trainer.max_steps=4",
                "resume_lr=schedule",
                "data.train.labels=[shape]",
                "data.val.labels=[shape]",
                "preview.prompts=[0]",
            )  # fmt: skip
        )


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("net.vectors.label.num_classes=17",), "18 classes .*, and this network knows 17: net.vectors.label.num_cl"),
        (("data.train.labels=[]", "data.val.labels=[]"), "reads class labels, and the data has none"),
        (
            ("data.train.labels=[shape]",),
            "data.train has 3 classes and data.val 18, and they differ: circle and red",
        ),
        (("net.in_channels=4", "net.out_channels=8"), "codec gives 3; add net.in_channels=3 net.out_channels=3"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    folder: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run.train(config("trainer.max_steps=2", *overrides))
    assert "\n" not in str(caught.value) and not (folder / "runs").exists()


def test_a_text_to_video_preset_says_in_one_line_what_it_needs_on_pixels(folder: Path) -> None:
    asked = ("experiment=demo", "net=s", "net.depth=1", "net.width=48", "net.heads=2", "name=mine", "show=true")
    with pytest.raises(
        ValueError, match="codec gives 3; add net.in_channels=3 net.out_channels=3 net.text_w"
    ) as caught:
        run.train(config(of=asked))
    run.train(config(*str(caught.value).partition("add ")[2].split(), of=asked))
    assert not (folder / "runs").exists()


def test_training_drops_as_often_as_it_says() -> None:
    net = small.TinyNet()
    net.num_classes = 5  # type: ignore[assignment]
    module = small.model(net=net, signals={"label": Label(Around(net))}, caption_dropout=0.3)
    told: list[torch.Tensor] = []
    module.net.register_forward_pre_hook(lambda _, inputs: told.append(inputs[2]["label"]))
    module.net.register_forward_pre_hook(lambda _, inputs: inputs[2].update(pooled=torch.zeros(400, 8)))
    values = {"caption": [""] * 400, "label": torch.zeros(400, dtype=torch.int64), "fps": torch.ones(400)}
    module.training_step(Batch(torch.zeros(400, 3, 2, 4, 4), ["x"] * 400, values), 0)
    assert 0.2 < (told[0] == 5).float().mean() < 0.4 and set(told[0].tolist()) == {0, 5}


def test_class_numbers() -> None:
    names = ["jump", "run", "7"]
    assert [class_number(said, 9, names) for said in ("run", 1, "8", "7", "", None, 9)] == [1, 1, 8, 2, -1, -1, -1]
    with pytest.raises(ValueError, match="class 'rnu' is not known: .* 0 to 8, or names: run, ... \\(3 in all\\)"):
        class_number("rnu", 9, names)
    with pytest.raises(ValueError, match="class 10 is not known: this network reads class numbers, 0 to 8$"):
        class_number(10, 9, [])
