"""`Pipeline`: prompts and seeds in, videos out. Previews during training, `sample.py` and Python users share it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.given import with_given
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction
from dit.onednn import accelerate
from dit.sampling.checkpoint import TRUSTED, Checkpoint
from dit.sampling.given import Given, hold
from dit.sampling.guidance import AsTrained, Guidance, SkipLayer
from dit.sampling.job import Job, Round, Samples, Trained, cost, draw, for_each, start_at
from dit.sampling.record import as_config, facts, files_of, fingerprint
from dit.sampling.request import Request
from dit.sampling.rollout import roll_out, stitch
from dit.sampling.runtime import Progress, Timer, device_name, evaluating, peak_memory, pick_device, pick_dtype
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver
from dit.sampling.tasks import Canvas, Plan, Task, TextToVideo
from dit.signals.base import Signal, check_asked, cond_of_requests

log = logging.getLogger(__name__)


class Pipeline:
    """Network, codec, text encoder and sampler as one callable. The modules stay on the device they are on.

    Args:
        net, codec, text: as in docs/architecture.md; `text` is None for networks that read none.
        path, prediction: as in training.
        schedule, solver, guidance: of `dit.sampling`.
        num_frames, height, width, fps: of a sample, unless a call says otherwise.
        num_steps: solver steps.
        signals: what the network is told, by name (`dit.signals`).
        batch_size: samples that are denoised at once; None takes all.
        context_level: noise level at which given frames are shown to the network (they are returned clean).
        precision: dtype for the network's matrix products; None computes in the weights' own.
        offload_text: move the text encoder to the CPU before denoising.
        weights: which weights the modules hold, for `Samples.info`.
        trained: what to warn about; None warns of nothing.
        source: where the weights are from, for the facts of samples: path, step and fingerprint of a checkpoint.
    """

    def __init__(
        self,
        net: nn.Module,
        codec: nn.Module,
        text: nn.Module | None,
        path: Path,
        prediction: Prediction,
        schedule: Schedule,
        solver: Solver,
        guidance: Guidance,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        num_steps: int,
        *,
        signals: Mapping[str, Signal],
        batch_size: int | None = None,
        context_level: float = 0.0,
        precision: torch.dtype | None = None,
        offload_text: bool = False,
        weights: str = "as passed",
        trained: Trained | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1, or null for all at once")
        if not 0 <= context_level < 1:
            raise ValueError(f"context_level={context_level} is outside [0, 1); 0.0 shows given frames clean")
        if isinstance(guidance, SkipLayer):
            guidance.check(net)
        self.net, self.codec, self.text = net, codec, text
        self.path, self.prediction = path, prediction
        self.schedule, self.solver, self.guidance = schedule, solver, guidance
        self.num_frames, self.height, self.width, self.fps = num_frames, height, width, fps
        self.num_steps = num_steps
        self.signals = signals
        self.batch_size = batch_size
        self.context_level = context_level
        self.precision = precision
        self.offload_text = offload_text
        self.weights = weights
        self.trained = trained
        self.source = source

    @classmethod
    def from_checkpoint(
        cls,
        run_or_file: str | FilePath,
        weights: str = "ema",
        device: str = "auto",
        *,
        schedule: Schedule | None = None,
        solver: Solver | None = None,
        guidance: Guidance | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        fps: float | None = None,
        num_steps: int | None = None,
        batch_size: int | None = None,
        context_level: float = 0.0,
        precision: str | None = None,
        offload_text: bool = False,
        trusted: Sequence[str] = TRUSTED,
    ) -> Pipeline:
        """The pipeline of a run directory or checkpoint file, which needs nothing else.

        Args:
            weights: `ema` (the profile that previews used), `raw`, or a profile's name.
            device: `auto` takes a GPU where there is one.
            schedule to num_steps: None keeps what the checkpoint was trained and previewed with.
            precision: name of a torch dtype, such as `bfloat16`.
            trusted: packages of yours whose classes the checkpoint's config may build, beside this project's.

        Raises:
            FileNotFoundError, ValueError: in one line, for a path, weights or a device that is not there.
        """
        file = Checkpoint.load(run_or_file)
        label, averaged = file.choose(weights)
        where = pick_device(device)
        parts = {"net": file.network(trusted), **{name: file.part(name, trusted=trusted) for name in ("codec", "text")}}
        file.fill(parts, averaged)
        accelerate(parts["net"])
        own = {name: file.part("sampling", name, trusted=trusted) for name in ("schedule", "solver", "guidance")}
        shape = {key: file.number("data", key) for key in ("num_frames", "height", "width", "fps")}
        data = Trained(**shape, schedule=own["schedule"], given=file.saw_given())
        if isinstance(guidance, AsTrained):
            guidance = guidance.change(own["guidance"])
        log.info("%s weights of %s on %s", label, file.file, where)
        return cls(
            **{name: module and module.requires_grad_(False).to(where) for name, module in parts.items()},
            path=file.part("path", trusted=trusted),
            prediction=file.part("prediction", trusted=trusted),
            schedule=schedule or own["schedule"],
            solver=solver or own["solver"],
            guidance=guidance or own["guidance"],
            num_frames=data.num_frames if num_frames is None else num_frames,
            height=data.height if height is None else height,
            width=data.width if width is None else width,
            fps=data.fps if fps is None else fps,
            num_steps=file.number("sampling", "num_steps") if num_steps is None else num_steps,
            signals=file.signals(parts["net"], parts["text"], trusted),
            batch_size=batch_size,
            context_level=context_level,
            precision=pick_dtype(precision),
            offload_text=offload_text,
            weights=label,
            trained=data,
            source={"path": str(file.file), "step": file.step},
        )

    @property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.net.parameters()), torch.device("cpu"))

    def __call__(
        self,
        prompts: Sequence[str | int],
        seeds: Sequence[int],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_steps: int | None = None,
        task: Task | None = None,
        negative_prompt: str | Sequence[str] = "",
        labels: str | int | None | Sequence[str | int | None] = None,
        signals: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Samples:
        """One sample for each prompt and seed, all of them in memory; `batches` is for many.

        Args:
            prompts: texts; classes (numbers or names) for a network that reads labels and no text.
            seeds: of each sample's own noise.
            num_frames, height, width, num_steps: None takes the pipeline's.
            task: what is given; None is text-to-video.
            negative_prompt: what guidance leads away from, one for all samples or one for each; "" is no prompt.
            labels: classes, for a network that reads text too, one for all samples or one for each; None is no class.
            signals: what else is said, by name: one value for all samples or a list with one for each.
            progress: called as `progress(steps done, steps in all)`.

        Raises:
            ValueError: a shape that codec or network cannot take, or a task's own mistakes.
        """
        if not prompts or len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: each sample, one or more, needs both")
        negatives = for_each(negative_prompt, len(prompts), "negative prompts")
        said = {name: for_each(each, len(prompts), name) for name, each in (signals or {}).items()}
        more = [{name: each[i] for name, each in said.items()} for i in range(len(prompts))]
        wanted = map(Request, prompts, negatives, seeds, for_each(labels, len(prompts), "labels"), more)
        job = self.prepare(list(wanted), num_frames, height, width, num_steps, task)
        made = list(self.make(job, range(len(job.batches)), progress))
        pixels, latents = (torch.cat([getattr(each, name) for each in made]) for name in ("pixels", "latents"))
        every, took = [each for batch in job.batches for each in batch], cost(made)
        return Samples(pixels, latents, {**self.info(job, every), **took})

    def batches(
        self,
        wanted: Sequence[Request],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_steps: int | None = None,
        task: Task | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Samples]:
        """The same for any number of samples, a batch at a time: memory does not grow with their number. What is wrong
        with any of them is said at once, before the first batch."""
        job = self.prepare(wanted, num_frames, height, width, num_steps, task)
        return self.make(job, range(len(job.batches)), progress)

    def prepare(
        self,
        wanted: Sequence[Request],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_steps: int | None = None,
        task: Task | None = None,
    ) -> Job:
        """Checks what is asked for and reads what is given; denoises nothing. Arguments and errors are `__call__`'s."""
        if not wanted:
            raise ValueError("0 samples are asked for: at least one prompt is needed")
        task, steps = task or TextToVideo(), self.num_steps if num_steps is None else num_steps
        canvas = self.canvas(num_frames or self.num_frames, height or self.height, width or self.width)
        levels = self.levels(canvas, steps)
        for each in wanted:
            check_asked(self.signals, each, canvas)
        with evaluating(self.codec), torch.no_grad():
            plan = task(canvas)
        plan.check(len(wanted))
        self._warn(canvas, plan, [each.negative_prompt for each in wanted])
        size = self.batch_size or len(wanted)
        batches = [list(wanted[start : start + size]) for start in range(0, len(wanted), size)]
        return Job(batches, task, plan, steps, start_at(levels, plan.strength), canvas)

    def make(self, job: Job, which: Sequence[int], progress: Progress | None = None) -> Iterator[Samples]:
        """The samples of the batches `which` (positions in `job.batches`), one batch after another."""
        timer = Timer(len(which) * job.steps, progress, self.device)
        for index in which:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            seconds, done = timer.seconds, timer.done
            with evaluating(self.net, self.codec, self.text), torch.no_grad():
                pixels, latents = self._make(self._round(job, index, timer))
            about = self.info(job, job.batches[index])
            about["seconds_per_step"] = (timer.seconds - seconds) / max(timer.done - done, 1)
            about["peak_memory_gb"] = peak_memory(self.device) / 1e9
            yield Samples(pixels, latents, about)
        if which:
            count, seconds = sum(len(job.batches[index]) for index in which), timer.seconds / max(timer.done, 1)
            log.info("%d samples: %.3f s a step, peak memory %.2f GB", count, seconds, peak_memory(self.device) / 1e9)

    def canvas(self, num_frames: int, height: int, width: int) -> Canvas:
        """The clip to be made, in pixels and latents; ValueError when codec or network cannot take it."""
        codec: Any = self.codec
        return Canvas(
            num_frames=num_frames,
            height=height,
            width=width,
            fps=self.fps,
            latent_shape=codec.latent_shape(num_frames, height, width),
            stride=tuple(codec.stride),
            encode=lambda pixels: codec.encode(pixels.to(self.device)).float(),
            check_frames=lambda frames: codec.latent_shape(frames, height, width),
        )

    def levels(self, canvas: Canvas, num_steps: int) -> Tensor:
        """The noise levels that are visited, float64 (num_steps + 1,)."""
        if type(num_steps) is not int or num_steps < 1:
            raise ValueError(f"num_steps={num_steps} must be a whole number, at least 1")
        net: Any = self.net
        return self.schedule(num_steps, net.num_tokens(*canvas.latent_shape), self.path)

    def condition(self, wanted: Sequence[Request], canvas: Canvas, away: bool = False) -> dict[str, Tensor]:
        """What the network is told of each sample, or what guidance leads it `away` from."""
        if self.text is not None:
            self.text.to(self.device)
        return cond_of_requests(self.signals, wanted, canvas, self.device, away)

    def _round(self, job: Job, index: int, timer: Timer) -> Round:
        wanted = job.batches[index]
        told, untold = (self.condition(wanted, job.canvas, away) for away in (False, True))
        if self.offload_text and self.text is not None:
            self.text.cpu()
        generators = [torch.Generator().manual_seed(each.seed) for each in wanted]
        return Round(told, untold, generators, job.plan.rows(job.rows(index)), job, timer)

    def _make(self, now: Round) -> tuple[Tensor, Tensor]:
        """(pixels, latents) of one batch, on the CPU."""
        plan, canvas = now.plan, now.job.canvas
        clips = roll_out(
            lambda given: self._denoise(now, given), self._decode, canvas, plan.given, plan.chunks, plan.num_context
        )
        latents, pixels = zip(*((latents.cpu(), pixels) for latents, pixels in clips), strict=True)
        shared = canvas.latent_of_frame()[plan.num_context - 1] + 1 if plan.num_context else 0
        return stitch(pixels, plan.num_context), stitch(latents, shared)

    def _denoise(self, now: Round, given: Given | None) -> Tensor:
        """Latents (B, C, F, H, W) of one clip."""
        codec: Any = self.codec
        shape = (codec.channels, *now.job.canvas.latent_shape)
        noise = draw(now.generators, shape).to(self.device)
        known, places = noise, torch.zeros_like(noise[:, :1], dtype=torch.bool)  # nothing
        if given is not None:
            given = given.rows(slice(0, len(noise)), noise)
            known, places = given.latents.expand_as(noise), given.places
        denoiser = Denoiser(self.net, self.path, self.prediction)
        told, untold = (with_given(cond, self.net, known, places) for cond in (now.cond, now.uncond))
        guided = self.guidance(denoiser, told, untold)
        denoise = hold(guided, given, noise, self.path, self.context_level)
        if now.plan.start is None:
            x = self.path.prior_std * noise
        else:
            x = self.path.mix(now.plan.start.to(noise), noise, now.job.levels[0].to(noise))

        def fresh() -> Tensor:
            return draw(now.generators, shape).to(self.device)

        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None), now.timer:
            for state in self.solver(denoise, x, now.job.levels, self.path, fresh):
                x = state.x
                now.timer.step()
        return x if given is None else given.put_back(x)

    def _decode(self, latents: Tensor) -> Tensor:
        """Pixels on the CPU, one sample at a time: decoders want more memory than the network."""
        codec: Any = self.codec
        return torch.cat([codec.decode(one).float().clamp(-1, 1).cpu() for one in latents.split(1)])

    def _warn(self, canvas: Canvas, plan: Plan, negatives: Sequence[str]) -> None:
        """Says what has no effect, and where a sample leaves what the checkpoint was trained for."""
        if any(negatives) and not self.guidance.reads_negative:
            log.warning("the negative prompt has no effect with %s; use guidance=cfg guidance.scale=2", self.guidance)
        if self.trained is None:
            return
        if plan.uses_given and not self.trained.given:
            log.warning("frames are given, but this checkpoint was trained without given frames (conditioning=tasks)")
        for name in ("num_frames", "height", "width", "fps"):
            trained, asked = getattr(self.trained, name), getattr(canvas, name)
            if trained != asked:
                log.warning("sampling with %s=%g, but the checkpoint was trained with %g", name, asked, trained)
        if self.schedule != self.trained.schedule:
            log.warning("sampling with %s, but the checkpoint was trained for %s", self.schedule, self.trained.schedule)

    def facts(self, job: Job) -> list[dict[str, Any]]:
        """How each sample of a job is made: all that it takes to make it again (`record.py`). Reads the checkpoint and
        the task's files once more, for their fingerprints."""
        lists = {"prompts", "negative_prompts", "seeds", "labels", "signals"}
        common = {key: value for key, value in self.info(job, []).items() if key not in lists}
        source = dict(self.source or {})
        if "path" in source:
            source["sha256"] = fingerprint(source["path"])
        return facts({**common, "files": files_of(common["task"]), "checkpoint": source}, job.batches)

    def info(self, job: Job, wanted: Sequence[Request]) -> dict[str, Any]:
        """How samples are made, as plain values; parts of the sampler are configs, which build them again."""
        canvas = job.canvas
        return {
            "prompts": [each.prompt for each in wanted],
            "negative_prompts": [each.negative_prompt for each in wanted],
            "labels": [each.label for each in wanted],
            "signals": [each.signals for each in wanted],
            "seeds": [each.seed for each in wanted],
            "weights": self.weights,
            "task": as_config(job.task),
            "schedule": as_config(self.schedule),
            "solver": as_config(self.solver),
            "guidance": as_config(self.guidance),
            "num_steps": job.num_steps,
            "steps_taken": len(job.levels) - 1,
            "num_frames": canvas.num_frames,
            "height": canvas.height,
            "width": canvas.width,
            "fps": canvas.fps,
            "context_level": self.context_level,
            "precision": None if self.precision is None else str(self.precision).removeprefix("torch."),
            "device": device_name(self.device),
        }
