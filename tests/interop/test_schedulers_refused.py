"""Schedulers that cannot be ours are refused in one line, which names the setting."""

from __future__ import annotations

from typing import Any

import pytest

from dit.interop.families import FAMILIES as OURS
from dit.interop.scheduler_settings import DEFAULTS
from dit.interop.schedulers import COSMOS, FAMILIES, LTX, LTX_CONDITIONS, MOCHI, PARTS, of_scheduler

EULER, UNIPC, DPM, DDIM = (
    f"{name}Scheduler" for name in ("FlowMatchEulerDiscrete", "UniPCMultistep", "DPMSolverMultistep", "DDIM")
)
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
REFUSED: list[tuple[str, dict[str, Any], str | None, str]] = [
    (EULER, {"use_karras_sigmas": True}, None, "use_karras_sigmas=true cannot be"),
    (EULER, {"use_beta_sigmas": True}, None, "use_beta_sigmas=true"),
    (EULER, {"use_exponential_sigmas": True}, None, "use_exponential_sigmas=true"),
    (EULER, {"num_train_timesteps": 500}, None, "num_train_timesteps=500"),
    (EULER, {"use_dynamic_shifting": True, "max_shift": None}, None, "needs base_shift and max_shift"),
    (EULER, {"invert_sigmas": True, "stochastic_sampling": True}, None, "stochastic_sampling=true"),
    (EULER, {}, MOCHI, "invert_sigmas=false cannot be"),
    (EULER, {"invert_sigmas": True, "shift": 3.0}, MOCHI, "shift=3.0 cannot be"),
    (EULER, {}, COSMOS, "use_karras_sigmas=false cannot be"),
    (EULER, {"shift": -999.0}, None, "shift=-999.0 must be above 0"),
    (EULER, {"shift": float("nan")}, None, "shift=nan must be a number"),
    (EULER, {"shift": "3"}, None, "shift='3' must be a number"),
    (EULER, {"shift": True}, None, "shift=true must be a number"),
    (EULER, {"time_shift_type": "cubic"}, None, "time_shift_type=cubic must be one of exponential, linear"),
    (EULER, {"base_image_seq_len": 0}, None, "base_image_seq_len=0 must be a whole number from 1"),
    (EULER, {"novel": 1}, None, "a setting that is not known here: novel=1"),
    (EULER, {"n\nv": "a\nb"}, None, r"not known here: n\\nv='a\\nb'"),
    (UNIPC, {**FLOW, "solver_order": 4}, None, "solver_order=4 has no part here; there are 1, 2, 3"),
    (UNIPC, {**FLOW, "solver_type": "bh3"}, None, "solver_type=bh3"),
    (UNIPC, {**FLOW, "disable_corrector": [0]}, None, r"disable_corrector=\[0\]"),
    (UNIPC, {**FLOW, "solver_p": {"a": 1}}, None, "solver_p="),
    (UNIPC, {**FLOW, "lower_order_final": False}, None, "lower_order_final=false cannot be"),
    (UNIPC, {**FLOW, "final_sigmas_type": "sigma_min"}, None, "final_sigmas_type=sigma_min"),
    (UNIPC, {**FLOW, "predict_x0": False}, None, "predict_x0=false"),
    (UNIPC, {**FLOW, "prediction_type": "epsilon"}, None, "prediction_type=epsilon"),
    (UNIPC, {**FLOW, "use_dynamic_shifting": True}, None, "use_dynamic_shifting=true"),
    (UNIPC, {**FLOW, "use_karras_sigmas": True}, None, "needs sigma_min and sigma_max"),
    (UNIPC, {**FLOW, "thresholding": True}, None, "thresholding=true"),
    (UNIPC, {"use_karras_sigmas": True}, None, "use_karras_sigmas=true"),
    (UNIPC, {"prediction_type": "flow_prediction"}, None, "prediction_type=flow_prediction has no part here"),
    (UNIPC, {"trained_betas": [0.1]}, None, r"trained_betas=\[0.1\]"),
    (UNIPC, {"num_train_timesteps": 10**9}, None, "num_train_timesteps=1000000000 must be from 2 to 100000"),
    (UNIPC, {"beta_schedule": "laplace"}, None, "beta_schedule=laplace"),
    (DPM, {"solver_order": 3}, None, "solver_order=3"),
    (DPM, {"solver_type": "heun"}, None, "solver_type=heun"),
    (DPM, {"algorithm_type": "dpmsolver"}, None, "algorithm_type=dpmsolver has no part here"),
    (DPM, {"use_lu_lambdas": True}, None, "use_lu_lambdas=true"),
    (DPM, {"lambda_min_clipped": -5.1}, None, "lambda_min_clipped=-5.1"),
    (DPM, {"variance_type": "learned_range"}, None, "variance_type=learned_range"),
    (DPM, {"final_sigmas_type": "sigma_min"}, None, "euler_at_final=false cannot be"),
    (DDIM, {}, None, "clip_sample=true cannot be"),
    (DDIM, {"clip_sample": False, "rescale_betas_zero_snr": True}, None, "prediction_type=epsilon has no part"),
    (DDIM, {"clip_sample": False, "timestep_spacing": "linspace", "set_alpha_to_one": False}, None, "set_alpha_to_one"),
    ("DDPMScheduler", {"clip_sample": False, "variance_type": "learned_range"}, None, "variance_type=learned_range"),
    ("CogVideoXDPMScheduler", {"set_alpha_to_one": False}, None, "set_alpha_to_one=false"),
    ("EulerAncestralDiscreteScheduler", {"prediction_type": "sample"}, None, "prediction_type=sample"),
    ("EDMEulerScheduler", {"prediction_type": "v_prediction"}, None, "prediction_type=v_prediction"),
]


@pytest.mark.parametrize("name, settings, family, message", REFUSED, ids=lambda each: str(each)[:60])
def test_a_setting_that_cannot_be_is_named(
    name: str, settings: dict[str, Any], family: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        of_scheduler({"_class_name": name, **settings}, family)
    assert str(error.value).startswith(f"{name}: ") and "\n" not in str(error.value) and len(str(error.value)) < 300


def test_ltx_with_conditions_says_its_own_sigmas() -> None:
    with pytest.raises(ValueError, match="use_dynamic_shifting=true cannot be"):
        of_scheduler({"_class_name": EULER, "use_dynamic_shifting": True}, LTX, LTX_CONDITIONS)


def test_a_network_whose_pipeline_is_not_known_is_named() -> None:
    """Its pipeline may hand sigmas of its own."""
    with pytest.raises(ValueError, match="HunyuanVideoFramepackTransformer3DModel: what this network's pipeline hands"):
        of_scheduler({"_class_name": EULER}, "HunyuanVideoFramepackTransformer3DModel")


def test_every_family_of_ours_is_known() -> None:
    assert {family.class_name for family in OURS} <= set(FAMILIES)


@pytest.mark.parametrize("name", ["LCMScheduler", None, ["DDIMScheduler"], "a\nb" * 100])
def test_a_class_that_is_not_known_is_named(name: Any) -> None:
    with pytest.raises(ValueError, match="is not known here; there are FlowMatchEulerDiscreteScheduler") as error:
        of_scheduler({"_class_name": name})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PARTS)
def test_what_has_no_effect_may_be_anything_of_its_kind(name: str) -> None:
    """Settings that only others give a meaning, and what diffusers writes beside them."""
    idle = {"dynamic_thresholding_ratio": 0.5, "sample_max_value": 3.0, "clip_sample_range": 2.0, "base_shift": 0.1}
    own = {"clip_sample": False} if "clip_sample" in DEFAULTS[name] else {}
    config = {"_class_name": name, "_diffusers_version": "0.30.0", **own}
    more = {key: value for key, value in idle.items() if key in DEFAULTS[name]}
    assert of_scheduler({**config, **more}) == of_scheduler(config)


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**62,
    0.0,
    1e30,
    float("inf"),
    float("nan"),
    "",
    "a" * 500,
    "${x}",
    "x\ny",
    [],
    {},
]


@pytest.mark.parametrize("name", PARTS)
def test_odd_values_are_taken_or_refused_in_a_line(name: str) -> None:
    usual = {"_class_name": name, **({"clip_sample": False} if "clip_sample" in DEFAULTS[name] else {})}
    for key in DEFAULTS[name]:
        for value in ODD:
            try:
                of_scheduler({**usual, key: value})
            except ValueError as error:
                assert "\n" not in str(error) and len(str(error)) < 300


def test_values_of_a_file_are_never_read_as_anything_else() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        of_scheduler({"_class_name": DDIM, "clip_sample": False, "beta_schedule": "${oc.env:HOME}"})
    with pytest.raises(ValueError, match="plain values"):
        of_scheduler({"_class_name": DDIM, "beta_start": object()})
