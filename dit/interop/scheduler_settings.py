"""Settings of diffusers' schedulers: their names, their defaults, and what they may be, whoever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.foreign import shown
from dit.interop.family import in_words, like

_BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
_THRESHOLDING = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_CLIPPING = {"clip_sample": True, "clip_sample_range": 1.0}
_COGVIDEOX = {
    **_BETAS,
    **_CLIPPING,
    "sample_max_value": 1.0,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": True,
    "timestep_spacing": "leading",
    "snr_shift_scale": 3.0,
}
_OTHER_SIGMAS = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
_MULTISTEP = {
    **_BETAS,
    **_THRESHOLDING,
    **_OTHER_SIGMAS,
    "solver_order": 2,
    "lower_order_final": True,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "timestep_spacing": "linspace",
    "final_sigmas_type": "zero",
}

# Class -> setting -> default. What has no effect there is among them: it may have any value of its kind.
DEFAULTS: dict[str, dict[str, Any]] = {
    "FlowMatchEulerDiscreteScheduler": {
        **_OTHER_SIGMAS,
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "invert_sigmas": False,
        "shift_terminal": None,
        "stochastic_sampling": False,
        # Cosmos-Predict2's pipeline writes these into the config, and always its own values.
        "sigma_min": None,
        "sigma_max": None,
        "sigma_data": None,
        "final_sigmas_type": None,
    },
    "FlowMatchHeunDiscreteScheduler": {"num_train_timesteps": 1000, "shift": 1.0},
    "UniPCMultistepScheduler": {
        **_MULTISTEP,
        "predict_x0": True,
        "solver_type": "bh2",
        "disable_corrector": [],
        "solver_p": None,
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
    },
    "DPMSolverMultistepScheduler": {
        **_MULTISTEP,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "lambda_min_clipped": float("-inf"),
        "variance_type": None,
    },
    "DDIMScheduler": {
        **_BETAS,
        **_THRESHOLDING,
        **_CLIPPING,
        "set_alpha_to_one": True,
        "timestep_spacing": "leading",
    },
    "DDPMScheduler": {
        **_BETAS,
        **_THRESHOLDING,
        **_CLIPPING,
        "variance_type": "fixed_small",
        "timestep_spacing": "leading",
    },
    "CogVideoXDDIMScheduler": _COGVIDEOX,
    "CogVideoXDPMScheduler": _COGVIDEOX,
    "EulerAncestralDiscreteScheduler": {**_BETAS, "timestep_spacing": "linspace"},
    "EDMEulerScheduler": {
        "sigma_min": 0.002,
        "sigma_max": 80.0,
        "sigma_data": 0.5,
        "sigma_schedule": "karras",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "rho": 7.0,
        "final_sigmas_type": "zero",
    },
}
# Beside the kind of the default. Settings that are refused unless they have their default are of no kind.
_ALSO: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("sigma_min", "sigma_max", "sigma_data", "shift_terminal"), (0.5,)),
    **dict.fromkeys(("base_shift", "max_shift"), (None,)),
    **dict.fromkeys(("final_sigmas_type", "variance_type"), ("text", None)),
}
_ANY = ("trained_betas", "disable_corrector", "solver_p", "lambda_min_clipped")
_POSITIVE = (
    *(
        "shift",
        "flow_shift",
        "snr_shift_scale",
        "beta_start",
        "beta_end",
        "sigma_min",
        "sigma_max",
        "sigma_data",
        "rho",
    ),
    "shift_terminal",
)
_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "final_sigmas_type": ("zero", "sigma_min", None),
    "time_shift_type": ("exponential", "linear"),
    "sigma_schedule": ("karras", "exponential"),
}
MOST_TIMESTEPS = 100_000


def settings(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A scheduler's config with the defaults of its class filled in.

    Raises ValueError for a setting that the class has not, since it may mean anything, and for a value of another kind.
    """
    defaults = DEFAULTS[name]
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    if unknown := sorted(own.keys() - defaults.keys()):
        raise ValueError(
            f"it has a setting that is not known here: {shown(unknown[0])[1:-1]}={written(own[unknown[0]])}; take it"
            " out of the config if the scheduler does the same without it"
        )
    return {**defaults, **{key: _checked(key, value, defaults[key]) for key, value in own.items()}}


def _checked(name: str, value: Any, default: Any) -> Any:
    if name in _ANY:
        return value
    examples = (default, *_ALSO.get(name, ()))
    least = 0 if name == "steps_offset" else 1
    if not any(like(value, example, least) for example in examples):
        said = " or ".join(dict.fromkeys(in_words(example, least) for example in examples))
        raise ValueError(f"{name}={written(value)} must be {said}")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"{name}={written(value)} must be one of {', '.join(map(written, _CHOICES[name]))}")
    if name in _POSITIVE and value is not None and not (value > 0 or (name == "shift_terminal" and value == 0)):
        raise ValueError(f"{name}={written(value)} must be above 0")
    if name == "num_train_timesteps" and not 2 <= value <= MOST_TIMESTEPS:
        raise ValueError(f"{name}={written(value)} must be from 2 to {MOST_TIMESTEPS}")
    return float(value) if type(value) is int and any(type(each) is float for each in examples) else value


def written(value: Any) -> str:
    """A value as JSON has it, in a few characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    plain = isinstance(value, str) and len(value) < 40 and value.replace("+", "").replace("-", "").isidentifier()
    return value if plain else shown(value)
