"""`train(config)`: from a resolved config to a trained run in `runs/<name>/`, fresh or resumed."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningDataModule, Trainer

from data.batch import Measured, SharesMachine
from dit.checkpoint.files import FOLDER, LAST
from dit.codec.base import Codec
from dit.codec.vae.network import Autoencoder
from dit.config.build import build as _make
from dit.config.kinds import TARGET, resolve
from dit.config.sweep import is_sweep
from dit.diffusion.given import HELD_NODE, KEYS
from dit.diffusion.loss import Objective
from dit.engine import (
    captions,
    data_card,
    frozen,
    history,
    initial,
    latents,
    memory,
    published,
    ranks,
    report,
    resume,
    rng,
    rundir,
    sampler,
)
from dit.engine.arithmetic import Arithmetic
from dit.engine.callbacks.after_step import AfterStep, owed
from dit.engine.callbacks.assemble import assemble
from dit.engine.callbacks.begin import Begin
from dit.engine.callbacks.metrics import Metrics
from dit.engine.callbacks.sampled import Sampled
from dit.engine.finite import NonFinite
from dit.engine.fitting import (
    OF_NOISE,
    Sizes,
    check_channels,
    check_clips,
    check_encoder,
    check_given,
    check_packed,
    check_recipe,
)
from dit.engine.interrupts import Interrupts
from dit.engine.module import VideoDiffusion
from dit.engine.training import Training
from dit.engine.writers import CSV, Writers
from dit.net.backbone import Backbone
from dit.rates import STATED, reference_rate
from dit.recipes.aligned import Aligned
from dit.recipes.base import Recipe
from dit.sampling.runtime import pick_device
from dit.signals.base import Around, Signal
from dit.signals.builtin import check_reads, completed, implied
from dit.streams import steady
from dit.text.base import TextEncoder
from dit.text.pretrained import Pretrained

log = logging.getLogger(__name__)
ONCE_THE_ONLY_RECIPE = {"_target_": "dit.recipes.denoising.Denoising", "_partial_": True}
# text=null takes the whole key away; an autoencoder (`dit/codec/vae`) has nothing of noise.
MAY_BE_ABSENT = ("text", "text_cache", "signals", "alignment", "lora", "preview", "init_expert", "given", *OF_NOISE)


class Parts(NamedTuple):
    """Everything that a run is made of, built but not yet started."""

    module: VideoDiffusion
    data: LightningDataModule
    training: Training
    run: Path
    config: dict[str, Any]


def train(config: dict[str, Any]) -> None:
    """Trains `config["name"]`, or goes on where it stopped.

    Args:
        config: the whole config of `configs/train.yaml` as plain containers, interpolations resolved. With `show`,
            everything is built and checked and its sizes are printed, but nothing is trained or written.

    Raises:
        ValueError, FileNotFoundError: what the user asked for cannot be done; nothing has been overwritten.
        SystemExit: 128 + signal number when a signal ended the run after saving.
    """
    with steady():
        _train(config)


def _train(config: dict[str, Any]) -> None:
    quiet()
    config = dict(config)
    show = config.pop("show", False)  # no setting of the run
    parts = build(config)
    everyone = callbacks(parts)
    module, data, schedule = parts.module, parts.data, parts.module.lr_schedule
    defaults = {"signals": implied(module.net, module.text), "recipe": ONCE_THE_ONLY_RECIPE}
    if module.recipe.denoises:
        defaults["given"] = HELD_NODE
    start = resume.find_start(parts.run, parts.config, parts.training.world_size, schedule, data, defaults)  # type: ignore[arg-type]
    for note in (*start.notes, *filter(None, [parts.training.slow_precision()])):
        log.warning(note)
    if parts.training.precision == "auto":
        log.info("trainer.precision=auto is %s here", parts.training.arithmetic)
    if start.checkpoint is None and config["init_from"] is None and (why := module.recipe.needs_weights) is not None:
        raise ValueError(why)
    if show:
        count_arithmetic(parts)  # ValueError for inputs of the network that this run cannot give it
        print("\n".join(report.summary(parts.module, parts.data, parts.run, start, parts.training.max_steps)))
        return
    if start.step >= parts.training.max_steps and not owed(parts.run, start.step):
        longer = resume.about_longer(start, parts.config, schedule, parts.run)
        log.info("%s is finished: %d steps. %s", parts.run, start.step, longer)
        return
    counted = count_arithmetic(parts)
    first = None
    if start.checkpoint is not None:
        for key, before, now in start.changes:
            log.warning("from here on %s is %s; it was %s", key, now, before)
        module.held_lr_factor = start.held_lr_factor
        frozen.restore(module, start.checkpoint)
    elif config["init_from"] is not None:
        keys = ("init_from", "init_weights", "init_strict", "init_expert")
        first = initial.load(module, *(config[key] for key in keys))
        module.fill_copies(first.parts)
    if start.checkpoint is None and config["lora_from"] is not None:
        if first is None:
            raise ValueError(f"lora_from={config['lora_from']} adapts weights: give those as init_from=...")
        initial.load_adapters(module, config["lora_from"])
    card = data_card.of(data)
    if card is not None:
        log.info("data: %s", card.line)
        module.data_cards = [card.hash]
    if first is not None:
        module.trained_before(first.data_cards)
    encode_captions(parts, everyone)  # may take long: it can be stopped at once, and no run is begun yet
    with ExitStack() as session:

        def take() -> None:
            session.enter_context(rundir.held(parts.run))
            resume.take(parts.run, start, parts.config)
            if first is not None:
                first.write(parts.run)
            if card is not None:
                data_card.write(parts.run, card)
            if module.frozen_mark is None:
                frozen.write(module, parts.run, first=True)

        def then() -> None:
            if module.frozen_mark is None:  # on the other ranks, for the fingerprint
                frozen.write(module, parts.run, first=False)
            if trainer.is_global_zero:
                session.enter_context(history.recorded(parts.run, _about(parts, start), lambda: trainer.global_step))
            report.log_settings(parts.module, parts.config, parts.run)
            _arithmetic(parts, trainer, counted)
            how = "starting" if start.checkpoint is None else "resuming"
            log.info("%s %s at step %d of %d", how, parts.run, start.step, parts.training.max_steps)

        trainer = parts.training.trainer([Begin(start, take, then), *everyone], parts.run, start.step)
        try:
            _fit(parts, trainer, start)
        except NonFinite as error:
            raise NonFinite(f"{error}. {resume.about_divergence(parts.run, parts.config)}") from None


def build(config: dict[str, Any]) -> Parts:
    """Builds and checks every part before anything is written."""
    run = rundir.check_name(config["name"])
    config = published.completed(config, run)
    config = rundir.as_begun(run, {**dict.fromkeys(MAY_BE_ABSENT), **config})
    rng.seed(config["seed"])  # the same first weights on all ranks
    training: Training = _make(config["trainer"])
    if is_sweep() and training.starts_processes:
        raise ValueError(
            "a sweep (-m) cannot start several processes per job: each would run the whole sweep again. "
            "Start the ranks with torchrun or SLURM, or use trainer=default"
        )
    memory.check(config, on_cpu=training.device_type == "cpu")
    codec: Codec = _make(config["codec"])
    config["codec"] = identified(config["codec"], codec)
    net: Backbone | Autoencoder = _make(config["net"])
    net.on_latents(codec.compression)
    check_recipe(config, codec, net)
    check_clips(net, codec, config["data"])  # data opens slowly
    text: TextEncoder | None = _make(config["text"])
    config["text"] = identified(config["text"], text)
    if config["text_cache"] is not None:
        if not isinstance(text, Pretrained):
            raise ValueError(f"text_cache={config['text_cache']} is for text encoders of published models: null here")
        text.keep_in(config["text_cache"])
    if isinstance(net, Backbone):
        check_channels(config["net"], codec, text)
    data: LightningDataModule = _make(config["data"])
    if isinstance(data, SharesMachine):
        data.share_machine(training.processes_here)
    if isinstance(data, Measured):
        data.measure(Sizes(net, codec))
        memory.check_batches(data)
    captions.report_long(data.train, text)  # type: ignore[attr-defined]
    config["signals"] = completed(config["signals"], net, text)
    signals = build_signals(config["signals"], net, text, data)
    config["signals"] = {name: identified(node, signals[name]) for name, node in config["signals"].items()}
    if not (run / rundir.CONFIG).is_file():  # runs of before may go on as they were begun
        check_encoder(text, signals)
    objective: Objective | None = _make(config["objective"])
    if isinstance(net, Backbone) and objective is not None:
        check_given(net, objective)
    recipe: Recipe = _make(config["recipe"])(objective)
    if config["alignment"] is not None:
        recipe = Aligned(recipe, _make(config["alignment"]))
    latents.use(data, config, codec, text, signals, objective, recipe)
    module = VideoDiffusion(
        net=net,
        codec=codec,
        text=text,
        signals=signals,
        objective=objective,
        recipe=recipe,
        optimizer=_make(config["optim"]),
        lr_schedule=_make(config["lr_schedule"]),
        max_steps=training.max_steps,
        caption_dropout=config["caption_dropout"],
        compile_mode=training.compile_mode,
        config=config,
        classes=data.classes if net.num_classes is not None else None,  # type: ignore[attr-defined]
        uneven=data.shapes is not None,  # type: ignore[attr-defined]
    )
    check_packed(module, data)
    if config["lora"] is not None:
        module.adapt(_make(config["lora"]))
    module.configure_optimizers()  # raises for wrong settings; the one that trains is built later, on the devices
    return Parts(module, data, training, run, config)


def identified(node: Any, part: Any) -> Any:
    """The config of a part that is named by a folder and not kept with the run, with the fingerprint of its files."""
    return {**node, "fingerprint": part.identified()} if hasattr(part, "identified") else node


def build_signals(
    nodes: Mapping[str, Any], net: Backbone | Autoencoder, text: TextEncoder | None, data: LightningDataModule
) -> dict[str, Signal]:
    """What the network will be told. Raises ValueError where network, signals and data do not fit one another."""
    around = Around(net, text, data.classes)  # type: ignore[attr-defined]
    signals: dict[str, Signal] = {name: _make(node, f"signals.{name}")(around) for name, node in nodes.items()}
    check_reads(signals, net, KEYS)
    for name, each in signals.items():
        each.check(data, name)  # type: ignore[arg-type]
    return signals


def callbacks(parts: Parts) -> list[Callback]:
    """The callbacks of the config (`callbacks`, `ema`, `preview`), checked, in the order of `callbacks/place.py`."""
    config, module, data = parts.config, parts.module, parts.data
    nodes, shown = {"ema": config["ema"], **config["callbacks"]}, None
    if (asked := config["preview"]) is not None and not is_off(asked):
        shown, prompts = sampler.preview_of(module, data, asked["prompts"])
        nodes["preview"] = {**asked, "prompts": prompts}
    made = assemble(
        {name: node for name, node in nodes.items() if node is not None and not is_off(node)},
        {
            "module": lambda: module,
            "data": lambda: data,
            "training": lambda: parts.training,
            "folder": lambda: parts.run,
            "interrupts": Interrupts,
            "writers": lambda: Writers([CSV(), *_make(config["logger"]).values()]),
            "pipeline": lambda: sampler.pipeline(module, data, config["sampling"], parts.training.autocast),
            "pictures": lambda: shown,
        },
    )
    if not any(isinstance(each, AfterStep) for each in made.values()):
        raise ValueError("callbacks.after_step is not there: without it nothing would be saved")
    return [each for each in made.values() if isinstance(each, Callback)]  # the others are parts of these


def is_off(node: Mapping[str, Any]) -> bool:
    """Whether a callback samples, and never: then nothing that it needs is made either."""
    kind = resolve(str(node[TARGET]))
    return isinstance(kind, type) and issubclass(kind, Sampled) and node.get("every") is None


def encode_captions(parts: Parts, everyone: Sequence[Callback]) -> None:
    """Has all captions encoded, and the prompts of `everyone`, where what is said of them is kept, before the network
    comes to the device."""
    rank = int(os.environ.get("RANK", "0"))
    device = torch.device("cpu") if parts.training.device_type == "cpu" else pick_device("auto")
    clips = [parts.data.train, parts.data.val]  # type: ignore[attr-defined]
    tasks = [task for each in everyone if isinstance(each, AfterStep) for task in each.tasks]
    prompts = [str(each.prompt) for task in tasks if isinstance(task, Sampled) for each in task.requests]
    captions.encode_ahead(parts.module.text, clips, prompts, device, rank, max(parts.training.world_size, rank + 1))


def count_arithmetic(parts: Parts) -> Arithmetic:
    """What a step costs in FLOPs. Raises ValueError for an input that the run does not give the network, or gives in
    another width, and for clips that are too large for it."""
    data: Any = parts.data
    counted = Arithmetic(parts.module, later=data.shapes is not None)
    shapes: list[tuple[int, int, int]] = data.shapes_of(data.train)
    axes = (itemgetter(0), itemgetter(1), itemgetter(2))
    for shape in (shapes[0], *(max(shapes, key=axis) for axis in axes)):  # the usual one, the longest, highest, widest
        counted.of_passes(parts.module.codec.latent_shape(*shape))
    return counted


def _about(parts: Parts, start: resume.Start) -> dict[str, Any]:
    """What the history says of this start."""
    return {
        "step": start.step,
        "max_steps": parts.training.max_steps,
        "went_on_from": None if start.checkpoint is None else str(start.checkpoint),
        "changes": [f"{key} was {before}, now {now}" for key, before, now in start.changes],
        "ranks": parts.training.world_size,
    }


def _fit(parts: Parts, trainer: Trainer, start: resume.Start) -> None:
    after_step = next(callback for callback in trainer.callbacks if isinstance(callback, AfterStep))  # type: ignore[attr-defined]
    last = None if start.checkpoint is None else parts.run / FOLDER / LAST
    with after_step.interrupts:
        trainer.fit(parts.module, datamodule=parts.data, ckpt_path=last, weights_only=True)
    if after_step.stopped_by is not None:
        name = signal.Signals(after_step.stopped_by).name
        log.warning("stopped by %s at step %d; the same command goes on from there", name, trainer.global_step)
        raise SystemExit(128 + after_step.stopped_by)
    log.info("finished: %s after %d steps", parts.run, trainer.global_step)


def _arithmetic(parts: Parts, trainer: Trainer, counted: Arithmetic) -> None:
    """Tells the metrics what clips cost in FLOPs and what the devices can do, for the MFU."""
    data: Any = parts.data
    usual = parts.module.codec.latent_shape(data.num_frames, data.height, data.width)
    for metrics in (each for each in trainer.callbacks if isinstance(each, Metrics)):  # type: ignore[attr-defined]
        metrics.flops_per_token = counted.of_token(usual)
        metrics.arithmetic = None if data.shapes is None else counted
    if not trainer.is_global_zero:
        return
    dtype = parts.training.autocast or torch.float32
    rate, source = reference_rate(parts.training.device_type, dtype)
    for metrics in (each for each in trainer.callbacks if isinstance(each, Metrics)):  # type: ignore[attr-defined]
        metrics.reference_rate, metrics.reference_is_stated = rate * trainer.world_size, source == STATED
    log.info("MFU is the share of %.2f TFLOP/s (%s) on each of %d devices", rate / 1e12, source, trainer.world_size)
    if source != STATED:
        log.info("that rate is of this moment; compare runs by speed/tflops instead of speed/mfu")


def quiet() -> None:
    """Lightning's notes on hardware and its advice to beginners say nothing about this run."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    if not ranks.is_first_rank():
        logging.getLogger("dit").setLevel(logging.ERROR)
        logging.getLogger("data").setLevel(logging.WARNING)  # a clip that this rank cannot read is said
