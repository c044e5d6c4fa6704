"""From what is asked for to a plan: every variant is built once, and its steps follow from what one of them costs.

Building takes torch and the memory of a network, so `scripts/ablate.py` has it done in a process of its own.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from data.sampler import Place
from dit.config.renamed import current
from dit.engine import history, rundir
from dit.engine import run as training
from dit.engine.config import Config
from dit.entry import command, explain
from dit.foreign import read_yaml
from dit.report.ablation import many
from dit.report.curves import kind_of
from dit.report.groups import compared
from dit.runfiles import CONFIG
from dit.scores import Measure
from scripts.ablation.asked import Request, Variant, evaluation
from scripts.ablation.plan import Plan, PlannedVariant

LOOKS = 4  # validations and checkpoints of a run, the last ones among them, unless its config has more
ROWS = 20  # of its table at least
BATCHES = 256  # of clips of several shapes: so many say what a step costs
DIRECTIONS = {"higher": True, "lower": False}
OWN_WEIGHTING = ("train/loss", "val/loss")  # of each run in its own weighting and levels
WATCHED = ("callbacks.validation.every",)  # follows from the steps, and changes nothing of a run
SAME = ("codec", "data.val", "data.num_frames", "data.height", "data.width")  # on which errors of clips depend


@dataclass(frozen=True)
class Built:
    """What one variant is, without its parts.

    Attributes:
        composed: its config. known: keys of it that another value stands for in a run, known when parts are built.
        tokens, flops: of a step, over all devices.
    """

    composed: dict[str, Any]
    known: dict[str, Any]
    tokens: float
    flops: float
    denoises: bool
    is_world: bool
    world_size: int
    on_gpu: bool


def plan(request: Request, command: str) -> Plan:
    """Builds every variant, and says what is run. Writes nothing.

    Raises:
        ValueError: something that is asked for cannot be, with the variant that cannot; in one line.
    """
    rundir.check_name(request.name)
    asked, count = request.asked, len(request.variants) * request.asked.seeds
    each = asked.budget_each if asked.budget is None else asked.budget / count
    assert each is not None
    variants: list[PlannedVariant] = []
    built: dict[str, Built] = {}
    configs: dict[str, dict[str, Any]] = {}
    for variant in request.variants:
        overrides = [*request.overrides, *variant.overrides]
        own = [f"name={request.name}/{variant.label}", f"seed={asked.first_seed}"]
        with quiet():
            one = built[variant.label] = build(variant, [*overrides, *own])
        steps = steps_of(variant, one, each, request)
        given = following(overrides, steps, one.composed)
        configs[variant.label] = {**composed(variant, [*overrides, *given, *own]), **one.known}
        variants.append(PlannedVariant(variant.label, variant.overrides, tuple(given), steps, one.tokens, one.flops))
    metrics = metrics_of(asked.metrics, list(built.values()), configs)
    evaluate = evaluation(asked.evaluate, all(one.is_world for one in built.values()))
    check_runs(request, configs)
    versions = history.surroundings()
    return Plan(
        name=request.name,
        command=command,
        shared=request.overrides,
        variants=tuple(variants),
        seeds=tuple(request.seeds),
        baseline=request.baseline,
        budget_in=asked.budget_in,
        each=each,
        metrics=metrics,
        evaluate=evaluate,
        all_measures=asked.metrics is None and evaluate is not None,
        devices=max(one.world_size if one.on_gpu else 0 for one in built.values()),
        gpus=torch.cuda.device_count(),
        versions={key: value for key, value in versions.items() if key not in ("command", "pid")},
        notes=tuple(notes(configs, metrics, {variant.label: variant.steps for variant in variants})),
        launcher=asked.launcher,
        launch=request.launch,
    )


def composed(variant: Variant, overrides: Sequence[str]) -> dict[str, Any]:
    """The config of a run of a variant, as plain containers. ValueError, with the variant, where it cannot be."""
    with named(variant):
        config = command.composed("train", overrides, Config)
    del config["show"]  # no setting of a run
    return config


def build(variant: Variant, overrides: Sequence[str]) -> Built:
    """Builds a variant, as its runs will, and counts what a step costs. ValueError, with the variant, where it cannot
    be built."""
    config = composed(variant, overrides)
    if config["callbacks"].get("metrics") is None:
        raise ValueError(f"variant {variant.label}: callbacks.metrics is null, and without it nothing can be compared")
    with named(variant):
        parts = training.build(config)
        counted = training.count_arithmetic(parts)
    tokens = flops = 0.0
    batches = batches_of(parts.data)
    for shapes in batches:
        for shape, clips in shapes.items():
            latents = parts.module.codec.latent_shape(*shape)
            tokens += clips * parts.module.net.num_tokens(*latents) / len(batches)
            flops += clips * counted.of_passes(latents) * counted.passes / 3 / len(batches)
    several = parts.training.world_size * parts.training.accumulate
    made = Built(
        composed=config,
        known={key: value for key, value in parts.config.items() if value != config.get(key)},
        tokens=tokens * several,
        flops=flops * several,
        denoises=parts.module.recipe.denoises,
        is_world=is_world(parts.data),
        world_size=parts.training.world_size,
        on_gpu=parts.training.device_type == "cuda",
    )
    del parts, counted
    gc.collect()  # before the next one is built
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block nothing is logged but warnings: each variant would say the same."""
    loggers = [logging.getLogger(name) for name in ("dit", "data")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


@contextmanager
def named(variant: Variant) -> Iterator[None]:
    """Inside the block a user's mistake is one of this variant's."""
    try:
        yield
    except Exception as error:
        message = explain(error, "train")
        if message is None:
            raise
        raise ValueError(f"variant {variant.label}: {message}") from error


def batches_of(data: Any) -> list[dict[tuple[int, int, int], int]]:
    """How many clips of which shape (frames, height, width) some batches of one process have."""
    if data.shapes is None:
        return [{(data.num_frames, data.height, data.width): data.batch_size}]
    found = []
    for draws in islice(iter(data.stream(Place(0))), BATCHES):
        shapes: dict[tuple[int, int, int], int] = {}
        for draw in draws:
            shapes[tuple(draw.shape)] = shapes.get(tuple(draw.shape), 0) + 1
        found.append(shapes)
    return found


def is_world(data: Any) -> bool:
    """Whether `suite=world` of scripts/evaluate.py can measure samples by the clips that are validated on: a world of
    one object in straight motion, of which training shows another part."""
    plain = getattr(data.val, "is_plain", False)
    return plain and getattr(data.val, "split", None) != getattr(data.train, "split", None)


def steps_of(variant: Variant, built: Built, each: float, request: Request) -> int:
    """Steps that come nearest to the budget of a run. ValueError where that is less than one."""
    asked = request.asked
    unit = {"flops": built.flops, "tokens": built.tokens, "steps": 1.0}[asked.budget_in]
    if each < unit:
        runs = len(request.variants) * asked.seeds
        whole = f"budget={asked.budget:.4g} is {each:.3g} for each of {runs} runs" if asked.budget else None
        what = {"flops": "FLOPs", "tokens": "tokens", "steps": "steps"}[asked.budget_in]
        said = whole or f"budget_each={each:.4g}"
        raise ValueError(f"{said}, and one step of {variant.label} takes {unit:.3g} {what}; give more")
    return max(1, round(each / unit))


def following(overrides: Sequence[str], steps: int, config: Mapping[str, Any]) -> list[str]:
    """Overrides of a run that follow from its steps, unless the command sets them: validations for the curves,
    checkpoints to go on from, and no previews."""
    typed = {each.partition("=")[0].lstrip("+~") for each in overrides}
    given = [f"trainer.max_steps={steps}"]
    for name, times in (("validation", LOOKS), ("checkpoints", LOOKS), ("metrics", ROWS)):
        key, every = f"callbacks.{name}.every", (config["callbacks"].get(name) or {}).get("every")
        often = -(-steps // times)
        if every is not None and key not in typed and often < every:
            given.append(f"{key}={often}")
    if config.get("preview") is not None and not any(key.partition(".")[0] == "preview" for key in typed):
        given.append("preview=none")
    return given


def metrics_of(
    asked: str | None, built: Sequence[Built], configs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Measure]:
    """What is compared, with what is known of it: `val/psnr,my/score:higher`. ValueError for what will not be there."""
    if asked is None:
        first = {"val/x0_error" if one.denoises else "val/psnr" for one in built}
        if len(first) > 1:
            raise ValueError("some variants denoise, some are autoencoders: name what compares them, metrics=...")
        metrics = {name: kind_of(name) for name in first}
    else:
        metrics = {}
        for each in filter(None, map(str.strip, asked.split(","))):
            name, _, direction = each.partition(":")
            if direction and direction not in DIRECTIONS:
                raise ValueError(f"metrics={each}: behind the colon stands higher or lower, which is better")
            known = kind_of(name)
            metrics[name] = Measure(known.title, known.unit, DIRECTIONS[direction]) if direction else known
        if not metrics:
            raise ValueError(f"metrics={asked} names none; for example metrics=val/x0_error")
    for label, config in configs.items():
        validation = config["callbacks"].get("validation") or {}
        for name in metrics:
            key = "every" if validation.get("every") is None else "error_levels"
            absent = key == "every" or (name.endswith("_error") and validation.get(key) == 0)
            if name.startswith("val/") and absent:
                said = f"callbacks.validation.{key}={'null' if key == 'every' else 0}"
                raise ValueError(f"variant {label}: {said}, so there will be no {name}")
    return metrics


def check_runs(request: Request, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError where a run of this name was begun as another one than it would be now."""
    for variant in request.variants:
        now = compared(current(configs[variant.label]))
        for seed in request.seeds:
            file = rundir.RUNS / request.name / f"{variant.label}-seed.{seed}" / CONFIG
            if not file.is_file():
                continue
            before = compared(current(read_yaml(file)))
            other = [key for key in {**now, **before} if key not in WATCHED and before.get(key) != now.get(key)]
            if other:
                more = "; budget_each=... keeps the steps of each run" if other == ["trainer.max_steps"] else ""
                said = many([f"{key}={now.get(key)} (there {before.get(key)})" for key in other], 3)
                raise ValueError(
                    f"{file.parent} was begun as another run: now {said}; choose another name=..., or remove it{more}"
                )


def notes(
    configs: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Measure], steps: Mapping[str, int]
) -> list[str]:
    """What to know of a plan, a line each."""
    said: list[str] = []
    labels = list(configs)
    settings = [compared(config) for config in configs.values()]
    for place, label in enumerate(labels):
        first = labels[settings.index(settings[place])]
        if first != label:
            said.append(
                f"{label} has the config of {first}: with the same seeds their runs are the same, bit for bit, and say"
                " nothing of chance"
            )
    for key in SAME:
        if any(_at(config, key) != _at(configs[labels[0]], key) for config in configs.values()):
            said.append(f"{key} differs among the variants: errors on clips compare runs on the same clips and codec")
    said += [
        f"{name} is each run's loss in its own weighting, levels and space: it ranks no variants that differ in these"
        for name in metrics
        if name in OWN_WEIGHTING
    ]
    for label, config in configs.items():
        warmup = (config["lr_schedule"] or {}).get("warmup_steps", 0)
        if 2 * warmup > steps[label]:
            said.append(f"{label}: lr_schedule.warmup_steps={warmup} are more than half of its {steps[label]} steps")
    return said


def _at(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
