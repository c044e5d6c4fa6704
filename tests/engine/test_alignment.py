"""A training step with a middle layer aligned, from the config on."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional

from data.batch import Batch
from dit.engine import run
from dit.engine.module import VideoDiffusion
from dit.recipes.base import Clips
from dit.signals.base import cond_of_batch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class Means(nn.Module):
    """The mean colours of 2 x 8 x 8 pixels, as features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.scale * functional.avg_pool3d(pixels, (2, 8, 8))


def built(*overrides: str) -> VideoDiffusion:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", overrides=[
            "experiment=demo", "name=aligned", "net.width=48", "net.heads=4", "net.depth=3", "alignment=repa",
            "alignment.block=1", "alignment.hidden=16", "alignment.features=3",
            "caption_dropout=0.0", *overrides,
        ])  # fmt: skip
    config.alignment.encoder = {"_target_": f"{__name__}.Means"}
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return run.build(plain).module  # type: ignore[arg-type]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VideoDiffusion:
    monkeypatch.chdir(tmp_path)
    return built()


@pytest.mark.parametrize("block", [-1, 3])
def test_a_block_that_is_not_there(block: int) -> None:
    with pytest.raises(ValueError, match=f"block {block} is not in this network: its blocks are 0 to 2"):
        built(f"alignment.block={block}")


def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 8, 32, 32, generator=draw) * 2 - 1
    return Batch(pixels, ["a", "b"], {"caption": ["a red circle moves left"] * 2, "fps": torch.full((2,), 8.0)})


def test_the_step_adds_the_weighted_alignment(module: VideoDiffusion) -> None:
    loss = module.training_step(batch(), 0)
    assert module.last_step is not None
    own = module.last_step.losses["net"]
    aligned = own.columns["alignment"]
    assert 0 < aligned < 2 and own.shown == own.per_sample.mean()  # train/loss is without it
    torch.testing.assert_close(loss.detach(), own.shown + 0.5 * aligned)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in module.alignment.parameters() if p.grad is not None)
    assert module.alignment.projector[0].weight.grad is not None
    assert module.alignment.frozen[0].scale.grad is None


def test_only_the_blocks_up_to_the_aligned_one_learn_from_it(module: VideoDiffusion) -> None:
    given = batch()
    cond = cond_of_batch(module.signals, given)
    clips = Clips(module.encode(given.pixels), given.pixels, cond, lambda: cond)
    module.recipe.losses(module.networks, clips, 0)["net"].columns["alignment"].backward()
    reached = [block.mlp.down.weight.grad is not None for block in module.net.blocks]  # type: ignore[union-attr]
    assert reached == [True, True, False]


def test_checkpoints_hold_the_projector_and_not_the_encoder(module: VideoDiffusion) -> None:
    saved = [key for key in module.state_dict() if module.is_saved(key)]
    assert any(key.startswith("alignment.projector.0") for key in saved)
    assert not any("scale" in key for key in saved)


def test_the_choice_is_in_the_config(tmp_path: Path) -> None:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert hydra.compose("train", overrides=["experiment=demo", "name=x"]).alignment is None
