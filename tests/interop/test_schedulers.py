"""Schedulers of diffusers beside ours, step by step: the same noise, the same random function as network.

Each case names a scheduler's config and what its model's pipeline does with it; both samplers must be at the same x
behind every step and tell the network the same of every level. Each case also names a change of one of our parts that
must be seen.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dit.diffusion.denoiser import Denoiser
from dit.foreign import build
from dit.interop.scheduler_settings import DEFAULTS
from dit.interop.schedulers import COSMOS, HUNYUAN, LTX, LTX_CONDITIONS, MOCHI, PARTS, Scheduler, of_scheduler
from dit.sampling.checkpoint import KINDS
from dit.sampling.given import hold

diffusers = pytest.importorskip("diffusers")
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift  # noqa: E402
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule as ltx_schedule  # noqa: E402
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule as mochi_schedule  # noqa: E402

SHAPE = (2, 3, 2, 4, 3)
TOKENS = 1900  # of the sample, for shifts that follow its length
Told = Callable[[Tensor], float]  # a timestep of diffusers -> the level that our network is told


@dataclass(frozen=True)
class Case:
    """What is compared.

    name, settings: class of the scheduler and its config. spoil: part, key and another value, which must be seen.
    family, pipeline: as for `of_scheduler`. arguments: of `set_timesteps`, for a number of steps. told: a timestep of
        theirs
    as our network is told it. steps: their numbers. space: theirs / ours for x, at a sigma of theirs. drive: the
    pipeline's loop.
    """

    name: str
    settings: dict[str, Any]
    spoil: tuple[str, str, Any]
    family: str | None = None
    pipeline: str | None = None
    arguments: Callable[[int], dict[str, Any]] = lambda steps: {"num_inference_steps": steps}
    told: Callable[[Tensor], float] = lambda timestep: float(timestep) / 1000
    steps: tuple[int, ...] = (1, 2, 4, 7, 8)
    space: Callable[[Tensor], Tensor] | None = None
    drive: str = "usual"
    tolerance: float = 1e-5
    title: str = ""

    def __str__(self) -> str:
        said = (f"{key}={value}" for key, value in self.settings.items())
        return self.title or " ".join([self.name.removesuffix("Scheduler"), *said])


def ltx(steps: int) -> dict[str, Any]:
    mu = calculate_shift(TOKENS, 1024, 4096, 0.95, 2.05)
    return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": mu}


def along_line(steps: int) -> dict[str, Any]:
    return {"num_inference_steps": steps, "mu": calculate_shift(TOKENS, 256, 4096, 0.5, 1.15)}


WAN = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
LTX_CONFIG = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}
COGVIDEOX = {
    "clip_sample": False,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TO_FIRST = {"final_sigmas_type": "sigma_min", **SCALED}
KARRAS_FLOW = {**WAN, "use_karras_sigmas": True, "sigma_max": 200.0, "sigma_min": 0.01}
NOT_CLIPPED = {"clip_sample": False}
EULER, UNIPC, DPM = (f"{name}Scheduler" for name in ("FlowMatchEulerDiscrete", "UniPCMultistep", "DPMSolverMultistep"))
DDIM, DDPM, ANCESTRAL = (f"{name}Scheduler" for name in ("DDIM", "DDPM", "EulerAncestralDiscrete"))
SHIFT = ("schedule", "shift", {"_target_": "dit.diffusion.levels.ConstantShift", "shift": 1.7})
ORDER = ("solver", "order", 1)
SOLVER = ("solver", "_target_", "dit.sampling.solvers.Euler")


def ancestral_space(sigma: Tensor) -> Tensor:
    return (1 + sigma**2).sqrt()


CASES = [
    Case(EULER, {}, SHIFT),
    Case(EULER, {"shift": 5.0}, SHIFT),
    Case(EULER, {"shift": 3.0, "stochastic_sampling": True}, SOLVER),
    Case(EULER, {"use_dynamic_shifting": True}, SHIFT, arguments=along_line),
    Case(EULER, {"use_dynamic_shifting": True, "time_shift_type": "linear"}, SHIFT, arguments=along_line),
    Case(EULER, {"shift": 7.0}, SHIFT, family=HUNYUAN, title="HunyuanVideo",
         arguments=lambda steps: {"sigmas": np.linspace(1.0, 0.0, steps + 1)[:-1]}),
    Case(EULER, LTX_CONFIG, ("schedule", "terminal", 0.2), family=LTX, arguments=ltx, steps=(2, 4, 7, 8), title="LTX"),
    Case(EULER, {**LTX_CONFIG, "shift_terminal": None}, SHIFT, family=LTX, arguments=ltx, title="LTX not stretched"),
    Case(EULER, {}, ("schedule", "threshold", 0.05), family=LTX, pipeline=LTX_CONDITIONS, title="LTX with conditions",
         arguments=lambda steps: {"timesteps": (ltx_schedule(steps) * 1000).tolist()}),
    Case(EULER, {"invert_sigmas": True}, ("schedule", "threshold", 0.05), family=MOCHI, title="Mochi",
         arguments=lambda steps: {"sigmas": np.array(mochi_schedule(steps, 0.025))},
         told=lambda timestep: float(1 - timestep / 1000), steps=(2, 4, 7, 8)),
    Case(EULER, {"use_karras_sigmas": True}, ("schedule", "rho", 6.0), family=COSMOS, title="Cosmos-Predict2",
         steps=(2, 4, 7, 8), drive="cosmos_predict2"),
    Case("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, SHIFT, steps=(1, 2, 4, 7), drive="heun"),
    Case(UNIPC, WAN, SHIFT),
    Case(UNIPC, {**WAN, "flow_shift": 1.0}, SHIFT, steps=(1, 2, 3, 9)),
    Case(UNIPC, {**WAN, "solver_order": 3}, ORDER),
    Case(UNIPC, {**WAN, "solver_order": 1}, ("solver", "order", 2)),
    Case(UNIPC, {**WAN, "shift_terminal": 0.1}, ("schedule", "terminal", 0.2), steps=(2, 4, 7, 8)),
    Case(UNIPC, KARRAS_FLOW, ("schedule", "rho", 6.0), steps=(2, 4, 7, 8)),
    Case(UNIPC, KARRAS_FLOW, ("schedule", "rho", 6.0), family=COSMOS, drive="told sigma",
         title="Cosmos-Predict2.5", steps=(2, 4, 7, 8)),
    Case(UNIPC, {}, ("solver", "variant", "bh1")),
    Case(UNIPC, {"prediction_type": "v_prediction", "timestep_spacing": "trailing", **SCALED}, ORDER),
    Case(UNIPC, {**TO_FIRST, "predict_x0": False, "solver_order": 3}, ("solver", "belief", "x0")),
    Case(UNIPC, {**TO_FIRST, "predict_x0": False, "solver_type": "bh1", "prediction_type": "sample"}, ORDER),
    Case(UNIPC, {**TO_FIRST, "solver_type": "bh1", "solver_order": 3}, ("solver", "variant", "bh2")),
    Case(UNIPC, {"timestep_spacing": "leading", "steps_offset": 1, "final_sigmas_type": "sigma_min",
                 "lower_order_final": False, **SCALED}, ("solver", "lower_order_final", True)),
    Case(UNIPC, {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}, ORDER),
    Case(UNIPC, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", **SCALED},
         ("path", "zero_terminal_snr", False)),
    Case(DPM, {**WAN, "flow_shift": 5.0}, SHIFT),
    Case(DPM, {**WAN, "algorithm_type": "sde-dpmsolver++"}, ("solver", "_target_", "dit.sampling.stochastic.Renoise")),
    Case(DPM, {}, SOLVER),
    Case(DPM, {"timestep_spacing": "trailing", "prediction_type": "v_prediction", **SCALED}, SOLVER),
    Case(DPM, {"timestep_spacing": "leading", "steps_offset": 1, "final_sigmas_type": "sigma_min",
               "euler_at_final": True}, ("schedule", "offset", 3)),
    Case(DPM, {"solver_order": 1, "prediction_type": "sample"}, SOLVER),
    Case(DPM, {"algorithm_type": "sde-dpmsolver++", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
               **SCALED}, ("path", "zero_terminal_snr", False)),
    Case(DDIM, NOT_CLIPPED, ("schedule", "offset", 20)),
    Case(DDIM, {**NOT_CLIPPED, "steps_offset": 1, "set_alpha_to_one": False, **SCALED}, ("schedule", "to_clean", True)),
    Case(DDIM, {**NOT_CLIPPED, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
                "timestep_spacing": "trailing"}, ("path", "zero_terminal_snr", False), steps=(1, 2, 4, 6, 7, 8, 9)),
    Case(DDIM, {**NOT_CLIPPED, "timestep_spacing": "linspace", "prediction_type": "sample"}, SOLVER,
         steps=(2, 4, 7, 8)),
    Case(DDIM, {**NOT_CLIPPED, "beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
         ("path", "betas", {"_target_": "dit.diffusion.discrete.LinearBetas", "first": 1e-4, "last": 0.02})),
    Case(DDPM, NOT_CLIPPED, ("solver", "eta", 0.0)),
    Case(DDPM, {**NOT_CLIPPED, "timestep_spacing": "trailing", "variance_type": "fixed_small_log",
                "prediction_type": "v_prediction"}, SOLVER, steps=(1, 2, 4, 6, 7)),
    Case("CogVideoXDDIMScheduler", COGVIDEOX, ("path", "snr_shift", 1.0), steps=(1, 2, 4, 6, 7, 8), tolerance=1e-10,
         title="CogVideoX 2B DDIM"),
    Case("CogVideoXDDIMScheduler", {**COGVIDEOX, "snr_shift_scale": 1.0, "timestep_spacing": "leading"},
         ("path", "snr_shift", 1.3), tolerance=1e-10),
    Case("CogVideoXDPMScheduler", COGVIDEOX, ("path", "snr_shift", 1.0), steps=(1, 2, 4, 6, 7, 8), tolerance=1e-10,
         title="CogVideoX DPM", drive="cogvideox_dpm"),
    Case("CogVideoXDPMScheduler", {**COGVIDEOX, "snr_shift_scale": 1.0}, ("path", "snr_shift", 1.3), tolerance=1e-10,
         drive="cogvideox_dpm"),
    Case(ANCESTRAL, SCALED, ("solver", "eta", 0.0), steps=(2, 4, 7, 8), space=ancestral_space),
    Case(ANCESTRAL, {"timestep_spacing": "leading", "steps_offset": 1, **SCALED}, ("schedule", "offset", 9),
         space=ancestral_space),
    # theirs is 4096 times as large at first, and is subtracted in float32
    Case(ANCESTRAL, {"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
                     **SCALED}, ("path", "zero_terminal_snr", False), space=ancestral_space, tolerance=1e-3),
    # as much as 80 times, and from there to 0.002 in one step
    Case("EDMEulerScheduler", {"final_sigmas_type": "sigma_min"}, ("schedule", "rho", 6.0), family=COSMOS,
         title="Cosmos 1.0", told=float, steps=(2, 4, 7, 8), drive="edm", tolerance=1e-4),
    Case("EDMEulerScheduler", {"sigma_schedule": "exponential", "sigma_data": 1.0, "sigma_max": 20.0},
         ("prediction", "sigma_data", 0.9), told=float, steps=(2, 4, 7, 8), drive="edm"),
]  # fmt: skip


class Function:
    """A random smooth function of x and of what is said of the level; it remembers the latter."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(5)
        self.mix, self.tilt = (torch.randn(3, 3, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
        self.told: list[float] = []

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        level = t.flatten()[0].item()
        self.told.append(level)
        mixed = torch.einsum("ij,bjfhw->bifhw", self.mix + level * self.tilt, x)
        return torch.tanh(mixed) + 0.3 * math.sin(3 * level) * x.flip(-1)


class Draws:
    """The noise of a sampler of diffusers, step by step, for ours."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.dtype = dtype
        self.kept: list[Tensor] = []

    def fresh(self) -> Tensor:
        return torch.randn(SHAPE, generator=self.generator, dtype=torch.float64).to(self.dtype)

    @contextmanager
    def of_step(self, scheduler: Any) -> Iterator[Tensor]:
        """Within: `randn_tensor` of the scheduler's module is ours. Its last draw is kept (CogVideoX's DPM throws one
        away), or, where it makes none, the noise that is handed in."""
        module, drawn = sys.modules[type(scheduler).__module__], [self.fresh()]
        with pytest.MonkeyPatch.context() as patch:
            if hasattr(module, "randn_tensor"):
                patch.setattr(module, "randn_tensor", lambda *_, **__: drawn.append(self.fresh()) or drawn[-1])
            yield drawn[0]
        self.kept.append(drawn[-1])


def usual(case: Case, scheduler: Any, steps: int, noise: Tensor, net: Function, draws: Draws) -> Iterator[Tensor]:
    """The loop of most pipelines; x behind each step, in our scale."""
    scheduler.set_timesteps(**case.arguments(steps))
    scaled = getattr(scheduler, "scale_model_input", lambda x, timestep: x)
    own_noise = {"variance_noise"} & set(inspect.signature(scheduler.step).parameters) and case.name == DPM
    x = getattr(scheduler, "init_noise_sigma", 1.0) * noise
    if case.drive == "edm":
        x = scheduler.config.sigma_max * noise  # as Cosmos's pipeline does, whatever init_noise_sigma says
    for i, timestep in enumerate(scheduler.timesteps):
        told = scheduler.sigmas[i].item() if case.drive == "told sigma" else case.told(timestep)
        out = net(scaled(x, timestep), torch.tensor(told, dtype=torch.float64), {})
        with draws.of_step(scheduler) as handed:
            more = {"variance_noise": handed} if own_noise else {}
            x = scheduler.step(out, timestep, x, **more, return_dict=False)[0]
        yield x / case.space(scheduler.sigmas[i + 1]) if case.space else x


def heun(*arguments: Any) -> Iterator[Tensor]:
    """x behind whole steps: each but the last is two of theirs."""
    states = list(usual(*arguments))
    yield from [*states[1::2], states[-1]]


def cogvideox_dpm(
    case: Case, scheduler: Any, steps: int, noise: Tensor, net: Function, draws: Draws
) -> Iterator[Tensor]:
    scheduler.set_timesteps(steps)
    x, old, back = scheduler.init_noise_sigma * noise, None, None
    for timestep in scheduler.timesteps:
        out = net(x, torch.tensor(case.told(timestep), dtype=torch.float64), {})
        with draws.of_step(scheduler):
            x, old = scheduler.step(out, old, timestep, back, x, return_dict=False)
        back = timestep
        yield x


def cosmos_predict2(
    case: Case, scheduler: Any, steps: int, noise: Tensor, net: Function, draws: Draws
) -> Iterator[Tensor]:
    """Its pipeline works on x0 + sigma eps, and does the preconditioning itself."""
    scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(sigmas=torch.linspace(0, 1, steps, dtype=torch.float64))
    scheduler.sigmas[-1] = scheduler.sigmas[-2]
    x = noise * scheduler.config.sigma_max
    for i, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        t = sigma / (sigma + 1)
        x0 = (1 - t) * x - t * net(x * (1 - t), t, {})
        x = scheduler.step((x - x0) / sigma, timestep, x, return_dict=False)[0]
        yield x / (1 + scheduler.sigmas[i + 1])


DRIVES = {"usual": usual, "edm": usual, "told sigma": usual, "heun": heun, "cogvideox_dpm": cogvideox_dpm,
          "cosmos_predict2": cosmos_predict2}  # fmt: skip


def theirs(case: Case) -> Any:
    return getattr(diffusers, case.name)(**case.settings)


def parts_of(case: Case) -> Scheduler:
    """From the file that diffusers writes."""
    return of_scheduler(json.loads(theirs(case).to_json_string()), case.family, case.pipeline)


def ours(parts: Scheduler, steps: int, noise: Tensor, net: Function, kept: list[Tensor]) -> list[Tensor]:
    path, prediction = (build(getattr(parts, name), KINDS[name], name) for name in ("path", "prediction"))
    schedule, solver = (build(getattr(parts, name), KINDS[f"sampling.{name}"], name) for name in ("schedule", "solver"))
    levels, draws = schedule(steps, TOKENS, path, SHAPE[2]), iter(kept)
    denoiser = Denoiser(net, path, prediction)
    denoise = hold(lambda x, t: denoiser(x, t, {}), None, noise, path)
    x = schedule.start_std(path, levels[0].item()) * noise
    return [state.x for state in solver(denoise, x, levels, path, lambda: next(draws))]


def compared(case: Case, steps: int, dtype: torch.dtype, parts: Scheduler | None = None) -> tuple[float, float]:
    """Largest relative difference of x over the steps, and largest difference of what the network is told."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    their_net, our_net, draws = Function(dtype), Function(dtype), Draws(dtype)
    wanted = list(DRIVES[case.drive](case, theirs(case), steps, noise, their_net, draws))
    found = ours(parts or parts_of(case), steps, noise, our_net, draws.kept)
    if len(found) == len(wanted) - 1:  # a last step in which nothing moves is left out
        torch.testing.assert_close(wanted[-1], wanted[-2], rtol=1e-5, atol=1e-5)
        wanted, their_net.told = wanted[:-1], their_net.told[:-1]
    told = [abs(mine - yours) for mine, yours in zip(our_net.told, their_net.told, strict=True)]
    assert all(bool(each.isfinite().all()) for each in wanted)
    return max(relative(mine, yours) for mine, yours in zip(found, wanted, strict=True)), max(told)


def relative(mine: Tensor, yours: Tensor) -> float:
    return ((mine - yours).abs().max() / yours.abs().max()).item()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_x_behind_every_step_and_what_the_network_is_told(case: Case) -> None:
    exact = case.tolerance < 1e-5  # the others compute in float32 in parts, whatever they are given
    in_float64 = case.steps if exact else case.steps[-1:]
    for dtype, counts in ((torch.float32, case.steps), (torch.float64, in_float64)):
        for steps in counts:
            error, told = compared(case, steps, dtype)
            tolerance = case.tolerance if dtype is torch.float64 else max(case.tolerance, 1e-5)
            assert error <= tolerance, f"{steps} steps in {dtype}: {error:.1e}"
            assert told <= 2e-7, f"{steps} steps in {dtype}: {told:.1e}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_spoiled_part_is_seen(case: Case) -> None:
    part, key, value = case.spoil
    parts = deepcopy(parts_of(case))
    node = getattr(parts, part)
    if key == "_target_":
        node.clear()
    assert key == "_target_" or (key in node and node[key] != value)
    node[key] = value
    error, _ = compared(case, max(case.steps), torch.float64, parts)
    assert error > 1e-3, error


def test_every_scheduler_has_a_case_and_what_is_trained_on_builds() -> None:
    assert {case.name for case in CASES} == set(PARTS) == set(DEFAULTS)
    for case in CASES:
        levels = build(parts_of(case).levels, KINDS["levels"], "levels")
        drawn = levels(64, 2, TOKENS, torch.Generator().manual_seed(0), "cpu")
        assert bool((drawn >= 0).all()) and bool((drawn <= 1).all()) and drawn.std() > 0.05


def test_settings_and_defaults_are_those_of_diffusers() -> None:
    written_by_cosmos = {"sigma_min", "sigma_max", "sigma_data", "final_sigmas_type"}
    for name, defaults in DEFAULTS.items():
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        wanted = {key: parameter.default for key, parameter in parameters.items() if key != "self"}
        extra = written_by_cosmos if name == EULER else set()
        assert defaults.keys() - extra == wanted.keys(), name
        assert {key: defaults[key] for key in wanted} == wanted, name
