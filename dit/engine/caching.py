"""Latents and prompts made beforehand, through Lightning's predict loop on any number of devices.

What is to be encoded, and where it is kept, is the business of an object that the command brings (`Making`): the
engine knows the codec and the text encoder.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from data.batch import Clips, Measured, SharesMachine
from dit.codec.base import Codec
from dit.codec.vae.network import Autoencoder
from dit.config.build import build as _make
from dit.diffusion.footage import CLIP, encode_known, name_of
from dit.diffusion.given import Beside
from dit.diffusion.loss import Objective
from dit.engine import latents, parallel, precision, published, ranks, rundir
from dit.engine.fitting import Sizes, check_clips, check_recipe, recipe_class
from dit.engine.interrupts import Interrupts
from dit.engine.run import MAY_BE_ABSENT, build_signals, identified, quiet
from dit.engine.training import Training
from dit.net.backbone import Backbone
from dit.signals.builtin import completed
from dit.text.base import TextEncoder
from dit.text.pretrained import Pretrained

log = logging.getLogger(__name__)
PATIENCE = 7 * 24 * 60.0  # minutes that a rank waits for the others, whose clips may be longer


class Parts(NamedTuple):
    """What a run's latents are made with.

    listed: the clips to train and to validate on, those that fit no shape too. key: what must be the same in a run that
    uses them. frames: numbers of the pixel frames that are kept beside, -1
    the last. ways: numbers of the frames that may be given beside a clip, of a clip of full length.
    """

    config: dict[str, Any]
    codec: Codec
    text: TextEncoder | None
    data: LightningDataModule
    listed: list[Clips | None]
    objective: Objective
    training: Training
    key: dict[str, Any]
    frames: list[int]
    ways: list[tuple[int, ...]]


class Read(Protocol):
    @property
    def pixels(self) -> Tensor | None: ...


class Job(Protocol):
    """What is encoded at once: clips, or prompts."""

    @property
    def clips(self) -> Sequence[Read]: ...
    @property
    def prompts(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...


class Making(Protocol):
    """What is to be encoded, and where it is kept (`data.latents.making.Making`)."""

    def missing(self) -> list[tuple[str, int]]: ...
    def entries(self, shards: Sequence[tuple[str, int]]) -> int: ...
    def jobs(self, todo: Sequence[tuple[str, int]], load: Any) -> Iterator[Job]: ...
    def keep(self, job: Any, encoded: Sequence[Mapping[str, Tensor]]) -> None: ...


def build(config: dict[str, Any]) -> Parts:
    """Builds what makes the latents of a run, out of the run's config; the network is built without weights.

    Raises ValueError or FileNotFoundError, in one line, for a run that has no use for latents, or whose parts do not
    fit one another.
    """
    run = rundir.check_name(config["name"])
    config = {**dict.fromkeys(MAY_BE_ABSENT), **published.completed(config, run)}
    if config["data"].get("cache") is not None:
        raise ValueError(f"data.cache={config['data']['cache']} is for training; a cache is made of clips")
    if config["alignment"] is not None or recipe_class(config).sees_pixels:
        what = "alignment" if config["alignment"] is not None else recipe_class(config).__name__
        raise ValueError(f"{what} works on pixels, so this run has no use for a cache of latents")
    training: Training = _make(config["trainer"])
    codec: Codec = _make(config["codec"])
    config["codec"] = identified(config["codec"], codec)
    with torch.device("meta"):
        net: Backbone | Autoencoder = _make(config["net"])
        net.on_latents(codec.compression)
    check_recipe(config, codec, net)
    check_clips(net, codec, config["data"])
    text: TextEncoder | None = _make(config["text"])
    data: LightningDataModule = _make(config["data"])
    listed: list[Clips | None] = [data.train, data.val]  # type: ignore[attr-defined]
    if isinstance(data, SharesMachine):
        data.share_machine(training.processes_here)
    if isinstance(data, Measured):
        data.measure(Sizes(net, codec))
    nodes = completed(config["signals"], net, text)
    objective: Objective = _make(config["objective"])
    signals = build_signals(nodes, net, text, data)
    clips = [data.train, data.val]  # type: ignore[attr-defined]
    return Parts(
        config=config,
        codec=codec.requires_grad_(False),
        text=text if isinstance(text, Pretrained) and not text.sees_pictures else None,
        data=data,
        listed=listed,
        objective=objective,
        training=training,
        key=latents.key(config, codec, clips),
        frames=latents.kept_frames(signals, objective),
        ways=latents.kept_patterns(objective, codec, config["data"]["num_frames"]),
    )


class Encoder(LightningModule):
    """Encodes jobs and hands over what is kept of them.

    dtype: of latents that are kept.
    """

    def __init__(self, parts: Parts, making: Making, dtype: torch.dtype) -> None:
        super().__init__()
        self.parts = parts
        self.codec = parts.codec
        self.text = parts.text
        self.making = making
        self.kept_as = dtype

    def predict_step(self, job: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.making.keep(job, self.prompts(job.prompts) if job.prompts else self.clips(job.clips))

    def prompts(self, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
        assert isinstance(self.text, Pretrained)
        return self.text.tensors(prompts)

    def clips(self, clips: Sequence[Read]) -> list[dict[str, Tensor]]:
        """What is kept of clips, those of one shape that stand side by side at once; nothing of unreadable ones."""
        if isinstance(self.text, Pretrained) and self.text.models:
            self.text.release()
        encoded: list[dict[str, Tensor]] = []
        for shape, group in groupby((each.pixels for each in clips), key=lambda x: None if x is None else x.shape):
            alike = list(group)
            pixels = [each for each in alike if each is not None]
            encoded += self._together(torch.stack(pixels)) if shape is not None else [{} for _ in alike]
        return encoded

    def _together(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        """Of clips (B, 3, num_frames, height, width)."""
        made = {CLIP: self.codec.encoder_output(pixels)}
        given, codec, num_frames = self.parts.objective.given, self.codec, pixels.shape[2]
        if isinstance(given, Beside):
            for at in latents.kept_patterns(self.parts.objective, codec, num_frames):
                known = pixels[:, :, list(at)]
                made[name_of(at)] = encode_known(codec.encode, codec.compression, known, at, num_frames, given.unknown)
        made = {name: each.to(self.kept_as) for name, each in made.items()}
        return [{name: each[row] for name, each in made.items()} for row in range(len(pixels))]


class Jobs:
    """The jobs of this rank, out of those of all ranks, with a bar of how far it is. It ends where a signal was noted.

    What is to be done is agreed on when the ranks are connected: the first one says it.
    """

    def __init__(self, making: Making, load: Any, interrupts: Interrupts) -> None:
        self.making = making
        self.load = load
        self.interrupts = interrupts

    def __iter__(self) -> Iterator[Job]:
        rank, count = ranks.place()
        todo = ranks.gather_objects(self.making.missing())[0]
        mine = todo[rank::count]
        total = self.making.entries(mine)
        of_rank = f"rank {rank} of {count}" if count > 1 else "encoding"
        with tqdm(total=total, desc=of_rank, unit="entry", disable=rank > 0, delay=0.01) as bar:
            for job in self.making.jobs(mine, self.load):
                if self.interrupts.received is not None:
                    return
                yield job
                bar.update(len(job))


def encode(parts: Parts, making: Making, dtype: torch.dtype) -> bool:
    """Makes what is missing; returns on all ranks when all of them are done, whether this is the first one.

    Raises SystemExit, 128 + its number, where a signal ended it. ValueError, in one line, for what cannot be written.
    """
    quiet()
    data: Any = parts.data
    interrupts = Interrupts()
    module = Encoder(parts, making, dtype)
    trainer = trainer_of(parts.training)
    with interrupts:
        trainer.predict(module, dataloaders=Jobs(making, data.loaded, interrupts), return_predictions=False)
    if interrupts.received is not None:
        log.warning("stopped by %s; the same command goes on from there", signal.Signals(interrupts.received).name)
        raise SystemExit(128 + interrupts.received)
    trainer.strategy.barrier("cache")
    return trainer.is_global_zero


def trainer_of(training: Training) -> Trainer:
    """Lightning's trainer for the predict loop, on the devices that a run would train on, each with a whole codec."""
    strategy = parallel.DDP(False, gradient_as_bucket_view=False, static_graph=False, timeout_minutes=PATIENCE)
    arithmetic = precision.plugin("32-true", training.device_type)
    return training.bare_trainer(strategy if training.world_size > 1 else None, plugins=[arithmetic])
