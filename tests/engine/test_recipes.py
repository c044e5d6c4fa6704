"""Runs with several networks and optimizers: by name in checkpoints, averages, clipping and metrics; exact on resume.

The second recipe is distribution matching; its arithmetic is in tests/recipes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit.adapters import LoRA
from dit.diffusion import prediction
from dit.diffusion.given import HELD
from dit.diffusion.loss import Objective
from dit.engine import parallel
from dit.engine.finite import NonFinite
from dit.engine.module import VideoDiffusion
from dit.engine.optim import Together, joined
from dit.recipes.base import Part
from dit.recipes.denoising import FrozenText
from dit.recipes.distribution_matching import CRITIC, TEACHER, DistributionMatching
from dit.sampling.checkpoint import Checkpoint
from tests.engine import small

EXACT = (*small.EXACT, "running_losses_of", "frozen")
BEFORE = Path(__file__).parent / "before"


class Stop(Exception):
    pass


class Breaks(small.Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 9:
            raise Stop


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("student_every", [1, 2])
def test_a_killed_distillation_resumes_bit_for_bit(tmp_path: Path, student_every: int, optimizer: str) -> None:
    """Two micro-batches to a step; killed within the fifth, resumed from the third with other first weights."""
    changes: dict[str, Any] = {"optimizer": small.muon_optimizer} if optimizer == "muon" else {}
    callbacks: dict[str, Any] = {"callbacks": {"guard": small.GradientGuard(0.05)}}

    def train(where: str, seed: int, *before: small.Callback) -> None:
        module = small.distilled(student_every, max_steps=7, seed=seed, **changes)
        small.train(module, tmp_path / where, small.video_data(), before, accumulate=2, **callbacks)

    train("straight", 0)
    with pytest.raises(Stop):
        train("broken", 0, Breaks())
    assert small.load(tmp_path / "broken")["global_step"] == 3
    train("broken", 1)
    a, b = small.load(tmp_path / "straight"), small.load(tmp_path / "broken")
    assert [where for key in EXACT for where in small.same(a[key], b[key], key)] == []
    assert small.table(tmp_path / "straight") == small.table(tmp_path / "broken")
    assert a["running_losses_of"][CRITIC] == [a["running_losses_of"][CRITIC][0]] and len(a["running_losses_of"]) == 1
    groups = a["optimizer_states"][0]["param_groups"]
    assert {group["optimizer"] for group in groups} == {"net", CRITIC}
    rows = [row for row in small.table(tmp_path / "straight") if row["train/loss_critic"]]
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    for row in rows:
        assert float(row["train/loss_critic"]) > 0 and float(row["train/grad_norm_critic"]) > 0
        assert float(row["train/lr"]) in (0.01, 0.02) and float(row["train/lr_critic"]) == 0.005


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("distilled")
    module = small.distilled(max_steps=6)
    small.train(module, run, small.video_data(), callbacks={"preview_every": 6})
    return run


def test_a_checkpoint_names_what_it_holds(run: Path) -> None:
    saved, first = small.load(run), small.distilled(seed=0).state_dict()
    parts = {key.split(".")[0] for key in saved["state_dict"]}
    assert parts == {"net", CRITIC}  # in each checkpoint, since they are trained
    assert {key.split(".")[0] for key in saved["ema"]["fast"]} == {"net"}
    beside = torch.load(run / "checkpoints/frozen.pt", weights_only=True)["state_dict"]  # once for the run
    assert {key.split(".")[0] for key in beside} == {TEACHER, "text"}
    assert small.same(beside, {key: first[key] for key in beside}) == []  # what stands still did not move
    for part in parts:
        assert all(not torch.equal(v, first[k]) for k, v in saved["state_dict"].items() if k.startswith(part))
    moved = [saved["state_dict"][f"{part}.final.weight"] for part in sorted(parts)]
    assert not torch.equal(*moved)


def test_the_student_alone_is_sampled(run: Path) -> None:
    """Previews were made of its average; a pipeline asks neither critic nor teacher."""
    assert len(list((run / "samples/step-00000006").glob("*.mp4"))) == 2
    module = small.distilled()

    def forbidden(*_: Any) -> None:
        raise AssertionError("asked")

    for name in (CRITIC, TEACHER):
        module.networks[name].register_forward_pre_hook(forbidden)
    pixels = small.pipeline(module)(["one"], [3]).pixels
    alone = small.model()
    alone.load_state_dict({k: v for k, v in module.state_dict().items() if k.split(".")[0] in ("net", "text")})
    assert torch.equal(pixels, small.pipeline(alone)(["one"], [3]).pixels)
    found = Checkpoint.load(run)
    parts = {"net": small.TinyNet(), "text": small.model().text}
    found.fill(parts, found.choose("fast")[1])  # type: ignore[arg-type]
    assert torch.equal(parts["net"].final.weight, small.load(run)["ema"]["fast"]["net.final.weight"])  # type: ignore[union-attr]


def test_a_frozen_text_encoder_keeps_its_weights(tmp_path: Path) -> None:
    """They lie beside the checkpoints, once for the run, and sampling finds them there."""
    given = small.objective()
    module = small.model(max_steps=2, objective=given, recipe=FrozenText(given))
    first = {key: value.clone() for key, value in module.state_dict().items()}
    small.train(module, tmp_path, small.video_data())
    saved = small.load(tmp_path)["state_dict"]
    assert {key.split(".")[0] for key in saved} == {"net"}
    assert not torch.equal(saved["net.final.weight"], first["net.final.weight"])
    text = {key: value for key, value in Checkpoint.load(tmp_path).weights.items() if key.startswith("text.")}
    assert text and small.same(text, {key: first[key] for key in text}) == []


def test_copies_begin_with_the_weights_of_the_network() -> None:
    module = small.distilled()
    for name in (CRITIC, TEACHER):
        assert small.same(dict(module.networks[name].state_dict()), dict(module.net.state_dict())) == []
    with torch.no_grad():
        module.net.final.weight.fill_(2.0)  # as `init_from` does
    module.fill_copies(loaded={CRITIC})
    assert (module.networks[TEACHER].final.weight == 2).all()
    assert not (module.networks[CRITIC].final.weight == 2).all()  # the source held one of its own
    module.train()
    assert module.net.training and module.networks[CRITIC].training and not module.networks[TEACHER].training
    assert not any(p.requires_grad for name in (TEACHER, "text") for p in module.get_submodule(name).parameters())


def test_adapters_stand_beside_one_network_only() -> None:
    pytest.importorskip("peft")
    lora = LoRA(rank=2, alpha=3.0, dropout=0.0, rslora=False, targets=["blocks.*"])
    with pytest.raises(ValueError, match="lora adapts one network, and this recipe has critic, teacher beside it"):
        small.distilled().adapt(lora)


class Norms(small.Callback):
    """Norms of the gradients as the optimizers see them."""

    def __init__(self) -> None:
        self.norms: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = {name: [p.grad for p in pl_module.parameters_of(name)] for name in ("net", CRITIC)}
        flat = {name: [g.flatten() for g in each if g is not None] for name, each in grads.items()}
        self.norms.append({name: float(torch.cat(each).norm()) for name, each in flat.items() if each})


def test_each_optimizer_has_its_own_norm(tmp_path: Path) -> None:
    guard, before, norms = small.GradientGuard(1e-3), Norms(), Norms()
    trainer = small.training(4).trainer([before, guard, norms], tmp_path)
    trainer.fit(small.distilled(2, max_steps=4), datamodule=small.video_data())
    assert [sorted(each) for each in norms.norms] == [[CRITIC, "net"], [CRITIC], [CRITIC, "net"], [CRITIC]]
    assert all(norm == pytest.approx(1e-3, rel=1e-3) for each in norms.norms for norm in each.values())
    assert {name: float(norm) for name, norm in guard.norms.items()} == pytest.approx(before.norms[-1], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "where"), [("net", "loss"), (CRITIC, "loss"), (CRITIC, "gradient"), (CRITIC, "weights")]
)
def test_what_is_not_finite_is_named(tmp_path: Path, name: str, where: str) -> None:
    class Spoils(DistributionMatching):
        def losses(self, nets: Any, clips: Any, step: int) -> Any:
            losses = super().losses(nets, clips, step)
            if step == 2 and where == "loss":
                spoilt = losses[name]
                bad = spoilt.per_sample * torch.tensor([1.0, float("nan"), 1.0, 1.0])
                losses[name] = spoilt._replace(total=bad.mean(), per_sample=bad)
            elif step == 2:
                nets[name].final.weight.register_hook(lambda grad: grad * float("inf"))
                losses[name] = losses[name]._replace(total=losses[name].total + 0 * nets[name].final.weight.sum())
            if step == 2 and where == "weights":
                nets[name].embed.bias.data.fill_(float("nan"))
            return losses

    whose = "" if name == "net" else f" of {name}"
    wanted = f"the weights{whose} are not finite after step 2" if where == "weights" else (
        f"the {where}{whose} is not finite at step 3, {'sample' if where == 'loss' else 'one of the samples'} id"
    )  # fmt: skip
    with pytest.raises(NonFinite, match=f"^{wanted}"):
        small.train(small.distilled(kind=Spoils, max_steps=4), tmp_path, small.video_data())


def test_optimizers_as_one_step_as_alone() -> None:
    """Each with its own groups and state; one without gradients stands still, moments too."""
    torch.manual_seed(0)
    nets = [small.TinyNet() for _ in range(2)]
    twins = [small.TinyNet() for _ in range(2)]
    for net, twin in zip(nets, twins, strict=True):
        twin.load_state_dict(net.state_dict())
    together = joined({"net": small.muon_optimizer(nets[0]), CRITIC: torch.optim.AdamW(nets[1].parameters(), lr=0.1)})
    alone = [small.muon_optimizer(twins[0]), torch.optim.AdamW(twins[1].parameters(), lr=0.1)]
    assert isinstance(together, Together) and not any(isinstance(part, Together) for part in together.parts)
    for step in range(4):
        for net, twin in zip(nets, twins, strict=True):
            for p, q in zip(net.parameters(), twin.parameters(), strict=True):
                p.grad = q.grad = None if net is nets[0] and step % 2 else torch.randn_like(p)
        together.step()
        for each in alone:
            each.step()
        if step == 1:  # as a resumed run does
            together.load_state_dict(together.state_dict())
    for net, twin in zip(nets, twins, strict=True):
        assert small.same(dict(net.state_dict()), dict(twin.state_dict())) == []
    assert [group["optimizer"] for group in together.param_groups] == ["net", "net", "net", CRITIC]


class Affine(nn.Module):
    """An estimate of x0 that ignores the level: offset + scale x. As a student it makes N(offset, scale^2)."""

    def __init__(self, offset: float, scale: float) -> None:
        super().__init__()
        self.in_channels = 3
        self.offset, self.scale = (nn.Parameter(torch.tensor([value])) for value in (offset, scale))

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        return frames * height * width

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.offset + self.scale * x


class Exact(nn.Module):
    """The exact denoiser of N(mean, std^2) on the linear path."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.tensor([mean])), nn.Parameter(torch.tensor([std]).log())

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        return frames * height * width

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        t = t[:, None, :, None, None]
        variance = self.log_std.exp() ** 2
        away = x - (1 - t) * self.mean
        return self.mean + (1 - t) * variance * away / ((1 - t) ** 2 * variance + t**2)


class OnGaussians(DistributionMatching):
    """A teacher of N(0.5, 0.2^2)."""

    copies = {}

    def parts(self, net: Any) -> dict[str, Part]:
        return {
            CRITIC: Part(Exact(0.0, 0.5), optimizer=CRITIC, averaged=False),
            TEACHER: Part(Exact(0.5, 0.2), optimizer=None, averaged=False),
        }


def gaussians(max_steps: int) -> VideoDiffusion:
    plain = small.objective()
    as_x0 = Objective(
        plain.path, prediction.X0(1e-3), plain.levels, plain.weighting, plain.conditioning, plain.space, HELD
    )

    def slow(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=3e-3, betas=(0.0, 0.99), weight_decay=0.0)

    def fast(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=3e-2, betas=(0.0, 0.99), weight_decay=0.0)

    recipe = OnGaussians(as_x0, critic_optim=fast, student_every=1, teacher_guidance=1.0)
    return small.model(
        max_steps=max_steps, net=Affine(0.0, 0.5), objective=as_x0, recipe=recipe, optimizer=slow, text=None
    )


def test_a_run_draws_the_student_to_the_teachers_gaussian(tmp_path: Path) -> None:
    """The whole way: trained in two sittings, and sampled in one step by the pipeline of previews."""
    for steps in (200, 320):
        module = gaussians(steps)
        small.train(module, tmp_path, small.video_data(batch_size=8), callbacks={"every": 100, "validate_every": 10**6})
    pipeline = small.pipeline(module).changed(num_steps=1)
    latents = pipeline([""] * 40, list(range(40))).latents
    assert latents.mean().item() == pytest.approx(0.5, abs=0.05)
    assert latents.std().item() == pytest.approx(0.2, abs=0.05)
    assert module.networks[TEACHER].mean.item() == 0.5
    assert module.networks[CRITIC].mean.item() == pytest.approx(0.5, abs=0.1)


def test_copies_of_a_model_do_not_wait_for_an_optimizer_without_a_loss() -> None:
    def strategy(find: bool, static: bool) -> parallel.DDP:
        return parallel.DDP(find, gradient_as_bucket_view=True, static_graph=static, timeout_minutes=1)

    module = small.distilled(2)
    module._trainer = type("Trainer", (), {"strategy": strategy(False, False), "global_step": 1})()  # type: ignore[assignment]
    only = {CRITIC: None}
    with pytest.raises(ValueError, match="leaves out the optimizer of net at step 2: .*find_unused_parameters=true"):
        module._check_reached(only)  # type: ignore[arg-type]
    module._trainer.strategy = strategy(True, True)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="static_graph=false"):
        module._check_reached(only)  # type: ignore[arg-type]
    module._trainer.strategy = strategy(True, False)  # type: ignore[union-attr]
    module._check_reached(only)  # type: ignore[arg-type]


# -- one network: nothing has changed


def test_a_checkpoint_of_before_goes_on_as_it_did(tmp_path: Path) -> None:
    """`before/` was left by code that knew one network and one optimizer: a checkpoint after 3 of 6 steps, with Muon
    and AdamW, and what it had at the end. Other processors round differently; a moment or random state that found
    another place would show at once."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copyfile(BEFORE / "step-3.ckpt", tmp_path / "checkpoints/last.ckpt")
    module = small.model(max_steps=6, seed=1, optimizer=small.muon_optimizer)
    small.train(module, tmp_path, small.video_data())
    now, then = small.load(tmp_path), torch.load(BEFORE / "step-6.pt", weights_only=True)
    assert now.keys() == torch.load(BEFORE / "step-3.ckpt", weights_only=True).keys()  # no new entry either
    assert now["VideoData"] == then["VideoData"] and now["state_dict"].keys() == then["state_dict"].keys()
    torch.testing.assert_close(now["state_dict"], then["state_dict"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(now["ema"], then["ema"], rtol=1e-4, atol=1e-5)
    start = torch.load(BEFORE / "step-3.ckpt", weights_only=True)["state_dict"]
    assert all((start[key] - tensor).abs().max() > 1e-3 for key, tensor in then["state_dict"].items())
