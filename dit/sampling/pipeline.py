"""`Pipeline`: prompts and seeds in, videos out. Previews during training, `sample.py` and Python users share it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any, cast

import torch
from torch import Tensor, nn

from dit.diffusion.experts import ByLevel
from dit.diffusion.given import HELD, Showing
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction
from dit.interop.published import Asked
from dit.sampling.about import OF_SAMPLES, about, sources
from dit.sampling.canvas import Canvas
from dit.sampling.checkpoint import TRUSTED
from dit.sampling.clip_levels import levels_of
from dit.sampling.conds import Conds
from dit.sampling.from_checkpoint import parts_of_checkpoint
from dit.sampling.from_pretrained import parts_of_published
from dit.sampling.job import Job, Round, Samples, cost, own_noise, requests
from dit.sampling.maker import Intermediate, Maker
from dit.sampling.origin import Origin, warnings
from dit.sampling.parts import Parts
from dit.sampling.placement import Placement, Unread
from dit.sampling.record import facts, files_of
from dit.sampling.request import Request
from dit.sampling.runtime import (
    Progress,
    Timer,
    dtype_of,
    evaluating,
    exhausted,
    host_peak_memory,
    peak_in_words,
    peak_memory,
    stepwise,
)
from dit.sampling.settings import Settings, Shape, changed
from dit.sampling.tasks import Task, TextToVideo
from dit.signals.base import Signal, check_asked

log = logging.getLogger(__name__)


class Pipeline:
    """Network, codec, text encoder and sampler as one callable. The modules stay on the device they are on.

    Args:
        net, codec, text: as in docs/architecture.md; `net` may be two networks that share the noise levels
            (`experts.ByLevel`), and `text` is None for networks that read none.
        path, prediction: as in training.
        signals: what the network is told, by name (`dit.signals`).
        settings, shape: of samples, unless a call says otherwise.
        origin: of the weights.
        given: how the network is shown given frames.
        unread: what brings the weights of a network that has none yet, when the prompts are encoded or `net` is asked
            for; None: it has them.
    """

    def __init__(
        self,
        net: nn.Module,
        codec: nn.Module,
        text: nn.Module | None,
        path: Path,
        prediction: Prediction,
        signals: Mapping[str, Signal],
        settings: Settings,
        shape: Shape,
        origin: Origin = Origin(),  # noqa: B008 frozen
        unread: Unread | None = None,
        given: Showing = HELD,
    ) -> None:
        settings.guidance.check(net)
        if (on_latents := getattr(net, "on_latents", None)) is not None:
            on_latents(cast(Any, codec).compression)
        self.placement, self.codec, self.text = Placement(net, unread), codec, text
        self.path, self.prediction = path, prediction
        self.signals = signals
        self.settings, self.shape = settings, shape
        self.origin = origin
        self.given = given

    @classmethod
    def from_checkpoint(
        cls,
        run_or_file: str | FilePath,
        weights: str = "ema",
        device: str = "auto",
        *,
        low_noise_ckpt: str | FilePath | None = None,
        boundary: float | None = None,
        trusted: Sequence[str] = TRUSTED,
        folders: Mapping[str, str] | None = None,
        parts: Parts | None = None,
        **changes: Any,
    ) -> Pipeline:
        """The pipeline of a run directory or checkpoint file, which needs nothing else.

        Args:
            weights: `ema` (the profile that previews used), `raw`, a profile's name, or `ema@0.1` (another width).
            device: `auto` takes a GPU where there is one.
            low_noise_ckpt: another run or file, whose network is used at noise levels below `boundary` (Wan 2.2).
            boundary: None is where the levels end for which the two were trained.
            trusted: packages of yours whose classes the checkpoint's config may build, beside this project's.
            folders: of published parts that lie elsewhere now: `text`, `codec`, `image` -> folder.
            parts: values to change in parts that the model brings (`parts.KEYS`): {"codec": {"tiling": Tiling(...)}}.
            changes: of `Settings` and `Shape` by name (`num_steps=30`, `guidance=ClassifierFree(...)`). What is None or
                not named stays what the checkpoint was trained and previewed with.

        Raises:
            FileNotFoundError, ValueError: in one line, for a path, weights or a device that is not there.
        """
        asked = run_or_file, weights, device, low_noise_ckpt, boundary, trusted
        return cls(**parts_of_checkpoint(*asked, folders or {}, parts or {}, changes))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | FilePath,
        device: str = "auto",
        *,
        trusted: Sequence[str] = TRUSTED,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        causal_block: int | None = None,
        parts: Parts | None = None,
        **changes: Any,
    ) -> Pipeline:
        """The pipeline of a published model: a folder as diffusers saves one, with model_index.json.

        Args:
            guidance_scale: in the terms of the model's own pipeline, which may mean a number that the network is told.
            guidance_scale_2: that of the network of the low noise levels (Wan 2.2); None is `guidance_scale`.
            causal_block: latent frames that see one another and those before, in models with a noise level for each
                frame (SkyReels-V2's `causal_block_size`); None is the folder's own.
            device, trusted, parts, changes: as in `from_checkpoint`. What is not named is as in diffusers' class.

        Raises:
            FileNotFoundError, ValueError: in one line, for a folder that is not there, or a part that is not known.
        """
        asked = Asked(guidance_scale, guidance_scale_2, causal_block)
        return cls(**parts_of_published(folder, device, asked, trusted, parts or {}, changes))

    def changed(self, **changes: Any) -> Pipeline:
        """The same over the same modules with other settings, as in `from_checkpoint`."""
        other = copy(self)
        other.settings, other.shape = changed(self.settings, self.shape, changes)
        other.settings.guidance.check(self._net)
        return other

    @property
    def net(self) -> nn.Module:
        """The network, with its weights."""
        return self.placement.read()

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.placement.device

    def __call__(
        self,
        prompts: str | int | Sequence[str | int],
        seeds: int | Sequence[int],
        task: Task | None = None,
        *,
        negative_prompt: str | None | Sequence[str] = None,
        labels: str | int | None | Sequence[str | int | None] = None,
        signals: Mapping[str, Any] | None = None,
        noise: Tensor | None = None,
        progress: Progress | None = None,
        **changes: Any,
    ) -> Samples:
        """One sample for each prompt and seed, all of them in memory; `batches` is for many.

        Args:
            prompts: texts; classes (numbers or names) for a network that reads labels and no text. A single one is for
                all seeds.
            seeds: of each sample's own noise; a single one is that of the first, the next ones take the following.
            task: what is given; None is text-to-video.
            negative_prompt: what guidance leads away from, one for all samples or one for each; "" is no prompt, None
                the model's own (Cosmos has one).
            labels: classes, for a network that reads text too, one for all samples or one for each; None is no class.
            signals: what else is said, by name: one value for all samples or a list with one for each.
            noise: unit noise (B or 1, C, F, H, W) in place of what the seeds draw for the (first) clip. What is drawn
                later comes from the seeds all the same.
            progress: called as `progress(steps done, steps in all)`.
            changes: settings for this call alone, as in `from_checkpoint`.

        Raises:
            ValueError: a shape that codec or network cannot take, or a task's own mistakes.
        """
        pipeline = self.changed(**changes)
        job = pipeline.job(prompts, seeds, task, negative_prompt, labels, signals, noise)
        made = list(pipeline.make(job, range(len(job.batches)), progress))
        pixels, latents = (torch.cat([getattr(each, name) for each in made]) for name in ("pixels", "latents"))
        every, took = [each for batch in job.batches for each in batch], cost(made)
        return Samples(pixels, latents, {**pipeline.info(job, every), **took})

    def watch(
        self,
        prompts: str | int | Sequence[str | int],
        seeds: int | Sequence[int],
        task: Task | None = None,
        **asked: Any,
    ) -> Iterator[tuple[int, Intermediate]]:
        """Samples step by step: yields (solver steps done, the samples as they are now).

            for step, estimate in pipeline.watch("a red circle moves right", seeds=[3]):
                show(estimate.pixels())

        The last estimate is the sample itself. Intermediate ones are decoded only by `pixels()`. Leaving the loop stops
        the sampling. With `batch_size` one batch comes after another, and clips of a chain likewise.

        Args: those of `__call__`, without `progress`. Errors are raised here, not when the loop begins.
        """
        said = {name: asked.pop(name) for name in ("negative_prompt", "labels", "signals", "noise") if name in asked}
        pipeline = self.changed(**asked)
        job = pipeline.job(prompts, seeds, task, **said)
        return enumerate(pipeline._watch(job), 1)

    def _watch(self, job: Job) -> Iterator[Intermediate]:
        self._make_ready(job, range(len(job.batches)))
        timer = Timer(len(job.batches) * job.steps, None, self.device)
        for index in range(len(job.batches)):
            with self._computing():
                now = self._round(job, index, timer)
            yield from stepwise(self._maker.steps(now), self._computing)

    def job(
        self,
        prompts: str | int | Sequence[str | int],
        seeds: int | Sequence[int],
        task: Task | None = None,
        negative_prompt: str | None | Sequence[str] = None,
        labels: str | int | None | Sequence[str | int | None] = None,
        signals: Mapping[str, Any] | None = None,
        noise: Tensor | None = None,
    ) -> Job:
        """The arguments of `__call__` as samples to be made, checked; for `make` and `facts`."""
        return self.prepare(requests(prompts, seeds, negative_prompt, labels, signals or {}), task, noise)

    def batches(
        self, wanted: Sequence[Request], task: Task | None = None, progress: Progress | None = None
    ) -> Iterator[Samples]:
        """The same for any number of samples, a batch at a time: memory does not grow with their number. What is wrong
        with any of them is said at once, before the first batch."""
        job = self.prepare(wanted, task)
        return self.make(job, range(len(job.batches)), progress)

    def check(self, wanted: Sequence[Request]) -> Canvas:
        """Whatever can be checked before files are read and anything is encoded. Errors are `__call__`'s."""
        canvas = self.canvas()
        self.noise_levels(canvas, torch.zeros(canvas.latent_shape[0], dtype=torch.bool))
        for each in wanted:
            check_asked(self.signals, each, canvas)
        return canvas

    def prepare(self, wanted: Sequence[Request], task: Task | None = None, noise: Tensor | None = None) -> Job:
        """Checks what is asked for and reads what is given; denoises nothing. Arguments and errors are `__call__`'s."""
        if not wanted:
            raise ValueError("0 samples are asked for: at least one prompt is needed")
        own = self.origin.negative_prompt if self.settings.guidance.reads_negative else ""
        wanted = [each if each.negative_prompt is not None else replace(each, negative_prompt=own) for each in wanted]
        task, canvas = task or TextToVideo(), self.check(wanted)
        with evaluating(self.codec), torch.no_grad():
            plan = task(canvas)
            self.origin.check(plan)
            if plan.given is None:
                plan = replace(plan, given=canvas.nothing_given())
        plan.check(len(wanted))
        whole = plan.begins(canvas)[-1] + canvas.num_frames
        canvas = replace(canvas, first=plan.first, last=plan.last, whole=whole)
        for each in wanted:
            check_asked(self.signals, each, canvas)  # pictures, and what is said of each frame
        begin = self.settings.solver.begin
        levels = [begin(self.noise_levels(canvas, known), plan.strength) for known in plan.known(canvas)]
        plan.check_levels(levels[0])
        codec: Any = self.codec
        noise = own_noise(noise, len(wanted), (codec.channels, *canvas.latent_shape))
        for signal in self.signals.values():
            signal.check_ahead(wanted, canvas)
        for said in warnings(self.origin.trained, self.settings, self.given, canvas, plan, wanted):
            log.warning("%s", said)
        size = self.settings.batch_size or len(wanted)
        batches = [list(wanted[start : start + size]) for start in range(0, len(wanted), size)]
        return Job(batches, task, plan, self.settings.num_steps, levels, canvas, noise)

    def make(self, job: Job, which: Sequence[int], progress: Progress | None = None) -> Iterator[Samples]:
        """The samples of the batches `which` (positions in `job.batches`), one batch after another."""
        peak = self._make_ready(job, which)
        timer = Timer(len(which) * job.steps, progress, self.device)
        for index in which:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            seconds, done = timer.seconds, timer.done
            with self._computing():
                pixels, latents = exhausted(self._maker.steps(self._round(job, index, timer)))
            info = self.info(job, job.batches[index])
            info["seconds_per_step"] = (timer.seconds - seconds) / max(timer.done - done, 1)
            info["peak_memory_gb"] = peak_memory(self.device) / 1e9
            info["peak_host_memory_gb"] = host_peak_memory() / 1e9
            peak = max(peak, peak_memory(self.device))
            yield Samples(pixels, latents, info)
        if which:
            count, seconds = sum(len(job.batches[index]) for index in which), timer.seconds / max(timer.done, 1)
            log.info("%d samples: %.3f s a step, peak memory %s", count, seconds, peak_in_words(self.device, peak))

    def canvas(self) -> Canvas:
        """The clip to be made, in pixels and latents; ValueError when codec or network cannot take it."""
        codec: Any = self.codec
        dtype = dtype_of(self._net)
        frames, height, width = self.shape.num_frames, self.shape.height, self.shape.width
        return Canvas(
            **vars(self.shape),
            latent_shape=codec.latent_shape(frames, height, width),
            compression=codec.compression,
            # One sample at a time, as they are decoded: codecs want more memory than the network.
            encode=lambda pixels: torch.cat(
                [codec.encode(one.to(self.device, dtype)).to(dtype) for one in pixels.split(1)]
            ),
            check_frames=lambda frames: codec.latent_shape(frames, height, width),
            given=self.given,
            sees_times="coordinates" in getattr(getattr(self._net, "reads", None), "optional", ()),
        )

    def noise_levels(self, canvas: Canvas, known: Tensor) -> Tensor:
        """The noise levels that a clip visits, float64 (steps + 1,), or (steps + 1, F) where each frame has its own.

        known: bool (F,), which latent frames are given. ValueError for levels that the network was not trained for.
        """
        return levels_of(self.settings, self.path, self._net, self.origin.per_frame, canvas.latent_shape, known)

    def condition(self, wanted: Sequence[Request], canvas: Canvas, away: bool = False) -> dict[str, Tensor]:
        """The conditioning of samples, or what guidance leads `away` from."""
        return self._conds.of(wanted, canvas, away)

    def _make_ready(self, job: Job, which: Sequence[int]) -> int:
        """Lets large encoders say what they will be asked for these batches, and lets go of them; then reads the
        network's weights, if it has none yet. Returns the bytes that a GPU held meanwhile."""
        peaks, turns = [0], self.settings.offload_experts
        if which and self.settings.offload_text:
            with evaluating(self.text), torch.no_grad():
                for signal in self.signals.values():
                    signal.ahead(*job.asked(which), partial(self.placement.making_room, turns, peaks))
        if which:
            self.placement.read(turns)
        return max(peaks)

    def _round(self, job: Job, index: int, timer: Timer) -> Round:
        wanted, canvas = job.asked([index])
        conds = self._conds.pairs(wanted, canvas, job.plan.begins(canvas))
        if self.settings.offload_text and self.text is not None:
            self.text.cpu()
        return job.round(index, conds, timer)

    @property
    def _net(self) -> nn.Module:
        """The network, which may have no weights yet."""
        return self.placement.net

    @property
    def _conds(self) -> Conds:
        return Conds(self.signals, self.text, self.device, dtype_of(self._net))

    @property
    def _maker(self) -> Maker:
        return Maker(self._net, self.codec, self.path, self.prediction, self.settings, self.device, self.given)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Without gradients, all modules in evaluation mode; each is put back into its own at the end."""
        with evaluating(self._net, self.codec, self.text), torch.no_grad():
            yield

    @property
    def boundary(self) -> float | None:
        """The noise level at which two networks meet; None where there is one."""
        return self._net.boundary if isinstance(self._net, ByLevel) else None

    def facts(self, job: Job) -> list[dict[str, Any]]:
        """How each sample of a job is made: all that it takes to make it again (`record.py`). Reads the checkpoint and
        the task's files once more, for their fingerprints."""
        common = {key: value for key, value in self.info(job, []).items() if key not in OF_SAMPLES}
        files = {"files": files_of(common["task"]), **sources(self.origin, self.boundary)}
        return facts({**common, **files}, job.batches)

    def info(self, job: Job, wanted: Sequence[Request]) -> dict[str, Any]:
        """How samples are made, as plain values (`about.py`)."""
        return about(job, wanted, self.settings, self.origin, self.device, self.boundary)
