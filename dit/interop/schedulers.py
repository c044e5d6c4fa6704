"""A scheduler of diffusers as parts of ours: scheduler_config.json -> nodes of path, prediction, schedule and solver.

Nothing is built here, and nothing of `dit.sampling` or `dit.diffusion` is imported: nodes are plain, as those of a
checkpoint's config, and are built as such. docs/pipelines.md has the table of what becomes what.

Levels and timesteps. Our networks are told a level in [0, 1], which they multiply by their own scale (1000 but for
Cosmos). Flow matching: the level is sigma. Betas: timestep n of N is the level (n + 1) / N, and the network is told
n / 1000 (`DiscreteTimesteps`). Schedulers that keep timesteps in whole numbers beside exact sigmas are
`WholeTimesteps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dit.foreign import check_plain, shown
from dit.interop.scheduler_settings import settings, written

Node: TypeAlias = dict[str, Any]
Settings: TypeAlias = dict[str, Any]

COSMOS, HUNYUAN, LTX, MOCHI = (f"{name}Transformer3DModel" for name in ("Cosmos", "HunyuanVideo", "LTXVideo", "Mochi"))
LTX_CONDITIONS = "LTXConditionPipeline"
FORCING = "SkyReelsV2DiffusionForcing"  # how the names of pipelines begin that overwrite x in place, frame by frame
# Networks of which it is known what their pipelines hand the scheduler
FAMILIES = (
    *("AllegroTransformer3DModel", "CogVideoXTransformer3DModel", COSMOS, "DiTTransformer2DModel", HUNYUAN),
    *("HunyuanVideo15Transformer3DModel", "Kandinsky5Transformer3DModel", "LatteTransformer3DModel", LTX),
    *("LTX2VideoTransformer3DModel", MOCHI, "SanaVideoTransformer3DModel", "SkyReelsV2Transformer3DModel"),
    *("WanTransformer3DModel", "WanVACETransformer3DModel"),
)
# Those whose pipelines hand the scheduler n sigmas from 1 to 1 / n
FROM_ONE = (HUNYUAN, "HunyuanVideo15Transformer3DModel", LTX, "LTX2VideoTransformer3DModel")
SCALE = 1000.0  # by which networks multiply what they are told of the level
SMALLEST = 2.0**-24  # alpha_bar of the noisiest timestep where diffusers wants it above 0
JUST_BELOW_NOISE = 1 - 1e-6  # where its UniPC begins instead of at 1
MOCHI_THRESHOLD = 0.025


@dataclass(frozen=True)
class Scheduler:
    """A scheduler as nodes.

    Attributes:
        path, prediction, schedule, solver: what samples.
        levels: what to train on. Which levels a model was really trained on, its scheduler does not say: uniform
            timesteps where it counts in them, and else the schedule's shift over logit-normal levels, unless public
            code of the family does something else (docs/pipelines.md).
    """

    path: Node
    prediction: Node
    schedule: Node
    solver: Node
    levels: Node


def of_scheduler(config: Mapping[str, Any], family: str | None = None, pipeline: str | None = None) -> Scheduler:
    """scheduler_config.json -> nodes.

    Args:
        config: its content, from anyone.
        family: class of the network (`net.family`). Some families' pipelines choose sigmas themselves; None is the
            scheduler alone.
        pipeline: class of the whole pipeline, where one family has several that differ.

    Raises ValueError, in one line, for a class, a setting or a value that is not known or that none of our parts can
    be.
    """
    check_plain(config, "scheduler_config", free_text=True)
    name = config.get("_class_name")
    if family is not None and family not in FAMILIES:
        raise ValueError(
            f"{family!s:.60}: what this network's pipeline hands its scheduler is not known here; known are"
            f" {', '.join(FAMILIES)}"
        )
    if not isinstance(name, str) or name not in PARTS:
        raise ValueError(f"scheduler {shown(name)} is not known here; there are {', '.join(PARTS)}")
    try:
        found = PARTS[name](settings(config, name), family, pipeline)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Scheduler(**found)


def _flow_euler(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _refuse(s, "it has no part here", use_exponential_sigmas=False, use_beta_sigmas=False)
    if family == COSMOS:
        return _cosmos_predict2(s)
    _refuse(s, "it has no part here but in Cosmos", use_karras_sigmas=False)
    _refuse(s, "networks are told 1000 sigma", num_train_timesteps=1000)
    if family == MOCHI:
        _refuse(s, "Mochi's pipeline says all sigmas", invert_sigmas=True, use_dynamic_shifting=False, shift=1.0)
        _refuse(s, "Mochi's pipeline says all sigmas", shift_terminal=None)
    shift, terminal = _shift(s), s["shift_terminal"] or None
    if family == MOCHI or (family == LTX and pipeline == LTX_CONDITIONS):
        if family == LTX:
            _refuse(s, f"{LTX_CONDITIONS} says all sigmas", use_dynamic_shifting=False, shift=1.0, shift_terminal=None)
        schedule = _schedule("LinearQuadratic", threshold=MOCHI_THRESHOLD)
    elif family in FROM_ONE:
        schedule = _ramp(1.0, 0.0, False, shift, terminal)
    else:
        schedule = _ramp(1.0, _shifted(s, 1 / s["num_train_timesteps"]), True, shift, terminal)
    if s["invert_sigmas"]:
        _refuse(s, "with invert_sigmas it has no part here", stochastic_sampling=False)
    solver = _solver("stochastic.Renoise") if s["stochastic_sampling"] else _solver("solvers.Euler")
    prediction = _prediction("FlowToData" if s["invert_sigmas"] else "Flow")
    levels = _levels("levels.Uniform") if family == MOCHI else _logit_normal(shift)
    return _parts(_path("Linear"), prediction, schedule, solver, levels)


def _cosmos_predict2(s: Settings) -> dict[str, Node]:
    """Its pipeline works on x0 + sigma eps, takes sigmas of its own, and tells the network sigma / (1 + sigma):
    rectified flow, with steps that are straight in sigma. It ends at the smallest sigma."""
    _refuse(s, "Cosmos-Predict2 takes Karras's sigmas", use_karras_sigmas=True, stochastic_sampling=False)
    _refuse(s, "Cosmos-Predict2 takes Karras's sigmas", use_dynamic_shifting=False, invert_sigmas=False)
    schedule = _schedule("RatioRamp", unit_start=False, sigma_min=0.002, sigma_max=80.0, rho=7.0, to_clean=False)
    return _parts(_path("Linear"), _prediction("Flow"), schedule, _solver("solvers.DDIM", eta=0.0), _logit_normal(None))


def _flow_heun(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _refuse(s, "networks are told 1000 sigma", num_train_timesteps=1000)
    shift = _levels("levels.ConstantShift", shift=s["shift"])
    schedule = _ramp(1.0, _shifted(s, 1 / s["num_train_timesteps"]), True, shift, None)
    return _parts(_path("Linear"), _prediction("Flow"), schedule, _solver("solvers.Heun"), _logit_normal(shift))


def _unipc(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _refuse(s, "it has no part here", thresholding=False, trained_betas=None, disable_corrector=[], solver_p=None)
    _refuse(s, "it has no part here", use_exponential_sigmas=False, use_beta_sigmas=False, use_dynamic_shifting=False)
    _among(s, "solver_order", 1, 2, 3)
    _among(s, "solver_type", "bh2", "bh1", "midpoint", "heun", "logrho")  # the last three are taken for bh2
    if s["final_sigmas_type"] == "zero":
        _refuse(s, "a step into sigma 0 is not finite so, in diffusers", predict_x0=True)
        if s["solver_type"] == "bh1":
            raise ValueError("solver_type=bh1 cannot be (a step into sigma 0 is not finite so, in diffusers); bh2 can")
        if s["solver_order"] > 1:
            _refuse(s, "a step into sigma 0 is not finite so, in diffusers", lower_order_final=True)
    solver = _solver(
        "unipc.UniPCInPlace" if pipeline is not None and pipeline.startswith(FORCING) else "unipc.UniPC",
        order=s["solver_order"],
        variant="bh1" if s["solver_type"] == "bh1" else "bh2",
        belief="x0" if s["predict_x0"] else "eps",
        lower_order_final=s["lower_order_final"],
    )
    if not s["use_flow_sigmas"]:
        _refuse(s, "it has no part here but with use_flow_sigmas", use_karras_sigmas=False, shift_terminal=None)
        return _of_betas(s, solver, one_more=True, to_clean=s["final_sigmas_type"] == "zero", least=SMALLEST)
    _refuse(s, "use_flow_sigmas wants it so", prediction_type="flow_prediction", predict_x0=True)
    _refuse(s, "with use_flow_sigmas the last step would not be finite", final_sigmas_type="zero")
    flow, steps = _prediction("Flow"), s["num_train_timesteps"]
    prediction = (
        flow if family == COSMOS else _of_timesteps("WholeTimesteps", flow, s)
    )  # Cosmos 2.5 is told sigma itself
    if s["use_karras_sigmas"]:
        if s["sigma_min"] is None or s["sigma_max"] is None:
            raise ValueError("use_karras_sigmas=true needs sigma_min and sigma_max, which are null")
        ends = {"sigma_min": s["sigma_min"], "sigma_max": s["sigma_max"]}
        schedule = _schedule("RatioRamp", unit_start=True, **ends, rho=7.0, to_clean=True)
        return _parts(_path("Linear"), prediction, schedule, solver, _logit_normal(None))
    shift = _levels("levels.ConstantShift", shift=s["flow_shift"])
    schedule = _ramp(1.0, 1 / steps, False, shift, s["shift_terminal"] or None, JUST_BELOW_NOISE, steps)
    return _parts(_path("Linear"), prediction, schedule, solver, _logit_normal(shift))


def _dpm(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _refuse(s, "it has no part here", thresholding=False, trained_betas=None, variance_type=None)
    _refuse(s, "it has no part here", use_exponential_sigmas=False, use_beta_sigmas=False, use_lu_lambdas=False)
    _refuse(s, "it has no part here", use_karras_sigmas=False, use_dynamic_shifting=False)
    _among(s, "lambda_min_clipped", float("-inf"))
    _among(s, "algorithm_type", "dpmsolver++", "sde-dpmsolver++", "deis")  # the last is taken for the first
    _among(s, "solver_type", "midpoint", "logrho", "bh1", "bh2")  # the last three are taken for the first
    _among(s, "solver_order", 1, 2)
    noisy = s["algorithm_type"] == "sde-dpmsolver++"
    if s["solver_order"] == 1:
        solver = _solver("solvers.DDIM", eta=float(noisy))
    else:
        solver = _solver("stochastic.SDEDPMSolverPP2M" if noisy else "solvers.DPMSolverPP2M")
        if s["final_sigmas_type"] != "zero":
            _refuse(s, "the last step is of first order here", euler_at_final=True)
    if not s["use_flow_sigmas"]:
        return _of_betas(s, solver, one_more=True, to_clean=s["final_sigmas_type"] == "zero", least=SMALLEST)
    _refuse(s, "use_flow_sigmas wants it so", prediction_type="flow_prediction", final_sigmas_type="zero")
    shift, steps = _levels("levels.ConstantShift", shift=s["flow_shift"]), s["num_train_timesteps"]
    schedule = _ramp(1 - 1 / steps, 0.0, False, shift, None, 1.0, steps)
    prediction = _of_timesteps("WholeTimesteps", _prediction("Flow"), s)
    return _parts(_path("Linear"), prediction, schedule, solver, _logit_normal(shift))


def _ddim(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _refuse(s, "clipping has no part here", clip_sample=False, thresholding=False)
    return _with_stride(s, _solver("solvers.DDIM", eta=0.0))


def _ddpm(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _refuse(s, "clipping has no part here", clip_sample=False, thresholding=False)
    _among(s, "variance_type", "fixed_small", "fixed_small_log")
    _zero_snr_needs(s)
    return _of_betas(s, _solver("solvers.DDIM", eta=1.0), one_more=False, to_clean=True, least=0.0)


def _cogvideox_ddim(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    return _with_stride(s, _solver("solvers.DDIM", eta=0.0))


def _cogvideox_dpm(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _refuse(s, "the last step is of first order here", set_alpha_to_one=True)
    return _with_stride(s, _solver("stochastic.SDEDPMSolverPP2M"))


def _euler_ancestral(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _among(s, "prediction_type", "epsilon", "v_prediction")
    solver, unit = _solver("solvers.DDIM", eta=1.0), s["timestep_spacing"] == "leading"
    return _of_betas(s, solver, one_more=False, to_clean=True, least=SMALLEST, whole=False, unit_start=unit)


def _edm(s: Settings, family: str | None, pipeline: str | None) -> dict[str, Node]:
    _refuse(s, "it has no part here", prediction_type="epsilon")
    ends = {"sigma_min": s["sigma_min"], "sigma_max": s["sigma_max"]}
    rho = s["rho"] if s["sigma_schedule"] == "karras" else None
    to_clean = s["final_sigmas_type"] == "zero"
    schedule = _schedule("RatioRamp", unit_start=False, **ends, rho=rho, to_clean=to_clean)
    prediction, solver = _prediction("EDM", sigma_data=s["sigma_data"]), _solver("solvers.DDIM", eta=0.0)
    path = _path("VE", **ends)
    return _parts(path, prediction, schedule, solver, _levels("levels.LogNormal", path=path, mean=0.0, std=1.0))


def _with_stride(s: Settings, solver: Node) -> dict[str, Node]:
    """DDIM and its like: unless spacing is leading, where it is the same, steps have a length of their own."""
    _zero_snr_needs(s)
    if s["timestep_spacing"] != "leading":
        if s["timestep_spacing"] == "linspace":
            _refuse(s, "with timestep_spacing=linspace it has no part here", set_alpha_to_one=True)
        solver = _solver("stochastic.FixedStride", solver=solver, timesteps=s["num_train_timesteps"])
    return _of_betas(s, solver, one_more=False, to_clean=s["set_alpha_to_one"], least=0.0)


def _zero_snr_needs(s: Settings) -> None:
    if s["rescale_betas_zero_snr"]:
        _among(s, "prediction_type", "v_prediction", "sample")  # pure noise says nothing of x0 by way of eps


def _of_betas(
    s: Settings,
    solver: Node,
    one_more: bool,
    to_clean: bool,
    least: float,
    whole: bool = True,
    unit_start: bool = True,
) -> dict[str, Node]:
    """Parts of a scheduler with a table of betas."""
    _refuse(s, "it has no part here", trained_betas=None)
    _among(s, "prediction_type", "epsilon", "v_prediction", "sample")
    steps, zero_snr = s["num_train_timesteps"], s["rescale_betas_zero_snr"]
    cogvideox = "snr_shift_scale" in s
    ends = {"first": s["beta_start"], "last": s["beta_end"]}
    betas = {
        "linear": _levels("discrete.LinearBetas", **ends),
        "scaled_linear": _levels("discrete.ScaledLinearBetas", **ends),
        "squaredcos_cap_v2": _levels("discrete.SquaredCosineBetas", largest=0.999),
    }[s["beta_schedule"]]
    path = _levels(
        "discrete.Discrete",
        timesteps=steps,
        betas=betas,
        precision="float64" if cogvideox and s["beta_schedule"] == "scaled_linear" else "float32",
        snr_shift=s["snr_shift_scale"] if cogvideox else 1.0,
        zero_terminal_snr=zero_snr,
        least_alpha_bar=least if zero_snr else 0.0,
    )
    output = {
        "epsilon": _prediction("Eps", alpha_floor=1e-6),
        "v_prediction": _prediction("V"),
        "sample": _prediction("X0", sigma_floor=1e-6),
    }[s["prediction_type"]]
    common = {"unit_start": unit_start, "timesteps": steps, "one_more": one_more, "to_clean": to_clean}
    schedule = {
        "leading": _schedule("Leading", **common, offset=s["steps_offset"]),
        "trailing": _schedule("Trailing", **common),
        "linspace": _schedule("Linspace", **common, whole=whole),
    }[s["timestep_spacing"]]
    levels = _levels("timesteps.WholeLevels", levels=_levels("levels.Uniform"), timesteps=steps)
    return _parts(path, _of_timesteps("DiscreteTimesteps", output, s), schedule, solver, levels)


def _parts(path: Node, prediction: Node, schedule: Node, solver: Node, levels: Node) -> dict[str, Node]:
    return {"path": path, "prediction": prediction, "schedule": schedule, "solver": solver, "levels": levels}


def _levels(name: str, **arguments: Any) -> Node:
    return {"_target_": f"dit.diffusion.{name}", **arguments}


def _path(name: str, **arguments: Any) -> Node:
    return _levels(f"path.{name}", **arguments)


def _prediction(name: str, **arguments: Any) -> Node:
    return _levels(f"prediction.{name}", **arguments)


def _of_timesteps(name: str, prediction: Node, s: Settings) -> Node:
    return _levels(f"timesteps.{name}", prediction=prediction, timesteps=s["num_train_timesteps"], scale=SCALE)


def _schedule(name: str, **arguments: Any) -> Node:
    return {"_target_": f"dit.sampling.published_schedules.{name}", **arguments}


def _solver(name: str, **arguments: Any) -> Node:
    return {"_target_": f"dit.sampling.{name}", **arguments}


def _ramp(
    first: float,
    last: float,
    reaches_last: bool,
    shift: Node,
    terminal: float | None,
    highest: float = 1.0,
    timesteps: int = 1000,
) -> Node:
    ends = {"unit_start": True, "first": first, "last": last, "reaches_last": reaches_last}
    return _schedule("Ramp", **ends, shift=shift, terminal=terminal, highest=highest, timesteps=timesteps)


def _shift(s: Settings) -> Node:
    if not s["use_dynamic_shifting"]:
        return _levels("levels.ConstantShift", shift=s["shift"])
    if s["base_shift"] is None or s["max_shift"] is None:
        raise ValueError("use_dynamic_shifting=true needs base_shift and max_shift, which are null")
    kind = {"exponential": "ExponentialShift", "linear": "LinearShift"}[s["time_shift_type"]]
    return _levels(
        f"shift.{kind}",
        base_tokens=s["base_image_seq_len"],
        max_tokens=s["max_image_seq_len"],
        base_shift=s["base_shift"],
        max_shift=s["max_shift"],
    )


def _shifted(s: Settings, sigma: float) -> float:
    """The smallest sigma of a flow-matching scheduler, which its constructor shifts (and its schedule once more)."""
    return sigma if s.get("use_dynamic_shifting") else s["shift"] * sigma / (1 + (s["shift"] - 1) * sigma)


def _logit_normal(shift: Node | None) -> Node:
    levels = _levels("levels.LogitNormal", mean=0.0, std=1.0)
    return levels if shift is None else _levels("levels.Shifted", levels=levels, shift=shift)


def _refuse(s: Settings, why: str, **wanted: Any) -> None:
    """Raises ValueError for a setting that has another value than the only one that our parts can be."""
    for name, value in wanted.items():
        if s[name] != value:
            raise ValueError(f"{name}={written(s[name])} cannot be ({why}); {name}={written(value)} can")


def _among(s: Settings, name: str, *wanted: Any) -> None:
    if s[name] not in wanted:
        raise ValueError(f"{name}={written(s[name])} has no part here; there are {', '.join(map(written, wanted))}")


PARTS: dict[str, Callable[[Settings, str | None, str | None], dict[str, Node]]] = {
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "FlowMatchHeunDiscreteScheduler": _flow_heun,
    "UniPCMultistepScheduler": _unipc,
    "DPMSolverMultistepScheduler": _dpm,
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "CogVideoXDDIMScheduler": _cogvideox_ddim,
    "CogVideoXDPMScheduler": _cogvideox_dpm,
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "EDMEulerScheduler": _edm,
}
