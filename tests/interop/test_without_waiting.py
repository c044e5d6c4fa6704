"""Every published network, the objective and the samplers on a GPU that is not there: all tensors are where they should
be, and the host never waits for the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from data.batch import Batch
from dit.diffusion import conditioning, levels, path, prediction, space, weighting
from dit.diffusion.denoiser import Denoiser
from dit.diffusion.given import HELD
from dit.diffusion.loss import Objective
from dit.engine.ema import EMA, trainable
from dit.engine.profiles import PowerProfile
from dit.engine.run import build
from dit.entry import CONFIGS
from dit.interop.families import FAMILIES
from dit.interop.presets import build_empty, compose
from dit.net.dual import Dual
from dit.net.kernels.masks import Packed
from dit.net.layers import LayerNorm, RMSNorm
from dit.recipes.base import NET
from dit.sampling import solvers
from dit.sampling.given import Given, hold
from dit.sampling.guidance import ClassifierFree
from dit.sampling.solvers import DDIM, DPMSolverPP2M, Euler, Heun, Solver, Step, end
from scripts.twins.examples import Draw, example
from tests.interop.fake_device import Watch, all_placed, backward, fake_cuda, on_cuda, placed

SIZE = (4, 8, 8)  # latents: frames, height, width
FAMILY = {family.preset: family for family in FAMILIES}
PRECISIONS = {"fp32": (torch.float32, False), "bf16": (torch.bfloat16, False), "autocast": (torch.float32, True)}
# Beside the presets themselves, what else the published models read, and kinds of blocks: settings and overrides.
VARIANTS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "image beside text": ("wan21_tiny", {"image_dim": 10, "added_kv_proj_dim": 96}, []),
    "two images": ("wan21_tiny", {"image_dim": 10, "added_kv_proj_dim": 96, "pos_embed_seq_len": 6}, []),
    "patch over time": ("wan21_tiny", {"patch_size": [2, 2, 2]}, []),
    "frame rate": ("skyreels_v2_tiny", {"inject_sample_info": True}, []),
    "image as first frame": ("hunyuan_video_tiny", {"image_condition_type": "token_replace"}, []),
    "without guidance": ("hunyuan_video_tiny", {"guidance_embeds": False}, []),
    "rotary": ("cogvideox_tiny", {"use_rotary_positional_embeddings": True}, []),
    "image beside the text": ("cosmos_tiny", {"img_context_dim_in": 9, "img_context_dim_out": 96}, []),
    "checkpointing": ("dit_tiny", {}, ["net/checkpointing=blocks"]),
    "all layouts": ("wan21_tiny", {}, ["net.pattern=STWWCP", "net.depth=6"]),
    "layouts of a joint sequence": ("cogvideox_tiny", {}, ["net.pattern=STWDJ", "net.depth=5"]),
}


def case(preset: str, settings: dict[str, Any], overrides: list[str]) -> tuple[Any, tuple[Any, ...]]:
    """A network on the meta device, and x, t and cond on the host, made of the reference's own arguments."""
    family, plain = FAMILY[preset], ["net/kernel=sdpa"]  # `auto` would try its candidates out on the device
    net = build_empty(compose(preset, plain))
    known = family.settings(family.config(net)) | settings
    if settings or overrides:
        own = family.overrides({**family.inferred, **known}) if settings else None
        net = build_empty(compose(preset, [*plain, *overrides], own))
    draw = Draw(torch.Generator().manual_seed(0), torch.float32)
    return net, family.call(net, example(family, known, 2, SIZE, 5, draw))


def assert_runs(net: nn.Module, given: tuple[Any, ...], precision: str) -> None:
    """Forward and backward, watched: output and all gradients are on the device."""
    dtype, autocast = PRECISIONS[precision]
    x, t, cond = given
    with fake_cuda():
        on_cuda(net, dtype)
        placed_given = placed(x, dtype), placed(t), all_placed(cond, dtype)
        with Watch():
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                out = net(*placed_given)
            grads = backward(out, torch.ones_like(out))
    assert out.is_cuda and out.shape[2:] == x.shape[2:]
    assert out.dtype is (torch.float32 if precision == "fp32" else torch.bfloat16)
    for name, parameter in net.named_parameters():
        if name.startswith(text_of_the_end(net)):
            continue
        assert parameter in grads, f"{name} has no gradient"
        assert (grads[parameter].shape, grads[parameter].dtype) == (parameter.shape, dtype), name


def text_of_the_end(net: nn.Module) -> tuple[str, ...]:
    """Parameters of a last block of two streams, where nobody reads the text behind it (HunyuanVideo 1.5)."""
    last = len(net.blocks) - 1
    names = (f"blocks.{last}.attention.text_out.", f"blocks.{last}.text_mlp.")
    return names if type(net.blocks[last]) is Dual else ()


@pytest.mark.parametrize("preset", FAMILY)
def test_a_published_network(preset: str) -> None:
    net, (x, t, cond) = case(preset, {}, [])
    assert_runs(net, (x, t, cond), "bf16")
    assert_runs(net, (x, t.expand(2, x.shape[2]), cond), "autocast")  # a level for each frame


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant(variant: str) -> None:
    net, given = case(*VARIANTS[variant])
    assert_runs(net, given, "autocast")


SPOILS = {
    "the host waits": lambda x: x * x.abs().max().item(),
    "the host branches": lambda x: x if x.sum() > 0 else -x,
    "a choice of places": lambda x: x + x[x > 0].sum(),
    "a copy to the host": lambda x: x + x.cpu().mean(),
    "a list of numbers": lambda x: x * torch.tensor([2.0, 3.0], device=x.device).sum(),
    "made on the host": lambda x: x + torch.arange(x.shape[-1]),
    "indices of the host": lambda x: x[:, torch.arange(x.shape[1])],
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_notices(spoil: str) -> None:
    """One such line in a block is an error, forward or backward."""

    class Spoiled(nn.Module):
        def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, None]:
            return SPOILS[spoil](x), None

    net, given = case("dit_tiny", {}, [])
    net.blocks[1] = Spoiled()
    with pytest.raises(Exception, match="waits|meet|copies|_local_scalar_dense|nonzero|two different devices"):
        assert_runs(net, given, "fp32")


def test_notices_a_tensor_that_does_not_move_with_its_module() -> None:
    class Forgotten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.ones(96)

        def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, None]:
            return x * self.scale, None

    net, given = case("dit_tiny", {}, [])
    with fake_cuda():
        net.blocks[1] = Forgotten()
    with pytest.raises(RuntimeError, match="meet in aten.mul|two different devices"):
        assert_runs(net, given, "fp32")


OBJECTIVES = {
    "flow": (path.Linear(), prediction.Flow(), space.Velocity()),
    "eps": (path.VP(beta_min=0.1, beta_max=20.0), prediction.Eps(alpha_floor=1e-3), space.Eps()),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_training_loss(name: str) -> None:
    """Its own draws go to the device, small and without waiting, and nothing comes back."""
    where, meaning, compared = OBJECTIVES[name]
    tasks = {"t2v": conditioning.NoFrame(), "i2v": conditioning.FirstFrame(), "extend": conditioning.RandomPrefix()}
    given = conditioning.RandomTasks(tasks, dict.fromkeys(tasks, 1.0), context_noise=0.1)
    shifted = levels.Shifted(levels.LogitNormal(0.0, 1.0), levels.ConstantShift(3.0))
    objective = Objective(where, meaning, levels.Stratified(shifted), weighting.Uniform(), given, compared, HELD)
    net, (x, _, cond) = case("wan21_tiny", {}, [])
    with fake_cuda(strict=False):
        on_cuda(net, torch.float32)
        with Watch(draws=True):
            found = objective(net, placed(x), all_placed(cond))
            grads = backward(found.loss, torch.ones_like(found.loss))
    assert found.loss.is_cuda and len(grads) == len(list(net.parameters()))


@pytest.mark.parametrize("variant", ["wan21_tiny", "layouts of a joint sequence", "learned positions"])
def test_the_training_loss_of_packed_clips(variant: str) -> None:
    """Where tokens are is worked out on the device, of a few numbers of each clip."""
    learned = ("wan21_tiny", {}, ["net/position=learned", "net.position.grid=[4,4,4]"])
    known = VARIANTS.get(variant, learned if variant == "learned positions" else (variant, {}, []))
    tasks = {"t2v": conditioning.NoFrame(), "i2v": conditioning.FirstFrame()}
    given = conditioning.RandomTasks(tasks, dict.fromkeys(tasks, 1.0), context_noise=0.1)
    where, meaning, compared = OBJECTIVES["flow"]
    drawn = levels.PerFrame(levels.Shifted(levels.Uniform(), levels.TokenShift(16)))
    objective = Objective(where, meaning, drawn, weighting.Uniform(), given, compared, HELD)
    net, (x, _, cond) = case(*known)
    sizes = ((2, 4, 4), (1, 8, 2)) if net.patch[0] == 1 else ((2, 4, 4), (4, 8, 2))
    with fake_cuda(strict=False):
        on_cuda(net, torch.float32)
        x0 = [placed(torch.randn(2, x.shape[1], *size)) for size in sizes]
        told = {key: placed(torch.cat([value, value])) for key, value in cond.items()}
        with Watch(draws=True):
            found = objective(net, x0, told)
            grads = backward(found.loss, torch.ones_like(found.loss))
    assert found.loss.is_cuda and found.per_sample.shape == (4,)
    assert len(grads) > len(list(net.parameters())) / 2


def test_the_mask_of_packed_clips() -> None:
    """As FlexAttention asks for it."""
    parts = ((4, 6, 90000), (2, 2, 2))
    with fake_cuda(strict=False), Watch(draws=True):
        made = Packed(parts, parts).by_coordinates("cuda")
    assert made.query.is_cuda and made.query.shape == made.key.shape == (3, 90016)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("solver", [Euler(), Heun(), DDIM(eta=1.0), DPMSolverPP2M()], ids=lambda s: type(s).__name__)
def test_a_solver_under_guidance(solver: Solver, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels are the host's own, and the network's numbers never come there."""

    def net(x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return x * t[:, None, :, None, None] + cond["text"].mean()

    def steps(*_: Any) -> list[Step]:
        # One number that is written down keeps its value among fake tensors; a list of them does not.
        levels = [torch.tensor(t, dtype=torch.float64) for t in (1.0, 0.5, 0.3, 0.0)]
        return [Step(t, s, t, s, None, None, s is levels[-1]) for t, s in zip(levels, levels[1:], strict=False)]

    monkeypatch.setattr(solvers, "steps", steps)
    linear = path.Linear()
    guidance = ClassifierFree(scale=4.0, rescale=0.5, interval=(0.0, 1.0))
    with fake_cuda(strict=False):
        x, noise = placed(torch.empty(2, 4, *SIZE)), placed(torch.empty(2, 4, *SIZE))
        cond, mask = {"text": placed(torch.empty(2, 5, 8))}, placed(torch.empty(2, SIZE[0], dtype=torch.bool))
        denoise = guidance(Denoiser(net, linear, prediction.Flow()), cond, cond)
        with mock.patch.object(Tensor, "__bool__", lambda _: True):  # asked once, before the first step
            held = hold(denoise, Given(noise, mask) if known else None, noise, linear)
        with Watch():
            out = end(solver(held, x, torch.empty(4), linear, noise=lambda: noise))
    assert out.is_cuda and out.shape == x.shape


@pytest.mark.parametrize("dropped", [0.0, 1.0])
def test_a_training_step(dropped: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a batch on the device to the update, captions through the text encoder and all: the demo's."""
    monkeypatch.chdir(tmp_path)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("train", ["experiment=demo", "net/kernel=sdpa", f"caption_dropout={dropped}"])
    module = build(OmegaConf.to_container(config, resolve=True)).module  # type: ignore[arg-type]
    captions = ["a red circle moves right", "a blue bar moves up", "a red circle moves right", ""]
    with fake_cuda(strict=False):
        on_cuda(module, torch.float32)
        fps = placed(torch.empty(4))
        batch = Batch(placed(torch.empty(4, 3, 8, 32, 32)), list("abcd"), {"caption": captions, "fps": fps})
        with Watch(draws=True), torch.autocast("cuda", torch.bfloat16):
            loss = module.training_step(batch, 0)
            grads = backward(loss, torch.ones_like(loss))
        for parameter, grad in grads.items():
            parameter.grad = grad
        optimizer = module.optimizers_by_name[NET](module)
        for _ in range(2):  # the first one makes the moments
            with Watch():
                optimizer.step()
    assert loss.is_cuda
    assert module.net.blocks[0].attention.qkv.weight in grads and module.text.embedding.weight in grads


class Operators(TorchDispatchMode):
    """Which operators run, with the dtype and size of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, torch.dtype, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = out[0] if isinstance(out, tuple) else out
        if isinstance(first, Tensor) and not func.is_view:
            self.found.append((func.overloadpacket.__name__, first.dtype, first.numel()))
        return out


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_a_norm_under_autocast_is_one_kernel(norm: type[LayerNorm | RMSNorm]) -> None:
    """Beside the casts of its weights: the tokens stay in half precision, and are read once and written once."""
    with fake_cuda():
        net = on_cuda(norm(32, eps=1e-6, affine=True), torch.float32)
        x = torch.empty(2, 64, 32, device="cuda", dtype=torch.bfloat16)
        with Operators() as operators, torch.autocast("cuda", torch.bfloat16):
            assert net(x).dtype is torch.bfloat16
    large = [(name, dtype) for name, dtype, size in operators.found if size >= x.numel()]
    assert len(large) == 1 and "norm" in large[0][0] and large[0][1] is torch.bfloat16


def test_the_averages_of_the_weights() -> None:
    net, _ = case("wan21_tiny", {}, [])
    ema = EMA({"long": PowerProfile(sigma_rel=0.1)}, use="long", snapshot_every=None)
    with fake_cuda():
        on_cuda(net, torch.bfloat16)
        ema.averages = {"long": {name: placed(p, torch.float32) for name, p in trainable(net).items()}}
        with Watch():
            ema.update(net)
    assert ema.updates == 1
