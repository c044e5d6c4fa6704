"""`Pipeline`: prompts and seeds in, videos out. Previews during training, `sample.py` and Python users share it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.given import with_given
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction
from dit.sampling.checkpoint import TRUSTED, Checkpoint
from dit.sampling.given import Given, hold
from dit.sampling.guidance import AsTrained, Guidance, SkipLayer
from dit.sampling.rollout import roll_out, stitch
from dit.sampling.runtime import Progress, Timer, evaluating, peak_memory, pick_device, pick_dtype
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver
from dit.sampling.tasks import Canvas, Plan, Task, TextToVideo

log = logging.getLogger(__name__)


class Samples(NamedTuple):
    """What a pipeline returns, on the CPU.

    Attributes:
        pixels: (B, 3, num_frames, height, width) float32 in [-1, 1]; chained clips are one long clip.
        latents: (B, C, F, H, W) float32.
        info: how they were made, plain values: weights, seeds, prompts, settings, seconds_per_step, peak_memory_gb.
    """

    pixels: Tensor
    latents: Tensor
    info: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained for; the pipeline warns when it is asked for something else."""

    num_frames: int
    height: int
    width: int
    fps: float
    schedule: Schedule


@dataclass(frozen=True)
class Job:
    """One batch of samples: what the network is told, its sources of noise, what is given, the levels to visit."""

    cond: dict[str, Tensor]
    uncond: dict[str, Tensor]
    generators: list[torch.Generator]
    plan: Plan
    canvas: Canvas
    levels: Tensor
    timer: Timer


class Pipeline:
    """Network, codec, text encoder and sampler as one callable. The modules stay on the device they are on.

    Args:
        net, codec, text: as in docs/architecture.md; `text` is None for networks that read none.
        path, prediction: as in training.
        schedule, solver, guidance: of `dit.sampling`.
        num_frames, height, width, fps: of a sample, unless a call says otherwise.
        num_steps: solver steps.
        num_classes: of a network with class labels, whose prompts are class numbers; None without.
        batch_size: samples that are denoised at once; None takes all.
        context_level: noise level at which given frames are shown to the network (they are returned clean).
        precision: dtype for the network's matrix products; None computes in the weights' own.
        offload_text: move the text encoder to the CPU before denoising.
        weights: which weights the modules hold, for `Samples.info`.
        trained: what to warn about; None warns of nothing.
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
        num_classes: int | None = None,
        batch_size: int | None = None,
        context_level: float = 0.0,
        precision: torch.dtype | None = None,
        offload_text: bool = False,
        weights: str = "as passed",
        trained: Trained | None = None,
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
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.context_level = context_level
        self.precision = precision
        self.offload_text = offload_text
        self.weights = weights
        self.trained = trained

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
        own = {name: file.part("sampling", name, trusted=trusted) for name in ("schedule", "solver", "guidance")}
        shape = {key: file.number("data", key) for key in ("num_frames", "height", "width", "fps")}
        data = Trained(**shape, schedule=own["schedule"])
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
            num_classes=file.num_classes(),
            batch_size=batch_size,
            context_level=context_level,
            precision=pick_dtype(precision),
            offload_text=offload_text,
            weights=label,
            trained=data,
        )

    @property
    def device(self) -> torch.device:
        return next((parameter.device for parameter in self.net.parameters()), torch.device("cpu"))

    @torch.no_grad()
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
        progress: Progress | None = None,
    ) -> Samples:
        """One sample for each prompt and seed. Sample i depends on prompt i and seed i, not on its neighbours.

        Args:
            prompts: texts, or class numbers for a network with labels.
            seeds: of each sample's own noise.
            num_frames, height, width, num_steps: None takes the pipeline's.
            task: what is given; None is text-to-video.
            negative_prompt: what guidance leads away from, one for all samples or one for each; "" is no prompt.
            progress: called as `progress(steps done, steps in all)`.

        Raises:
            ValueError: a shape that codec or network cannot take, or a task's own mistakes.
        """
        if not prompts or len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds: each sample, one or more, needs both")
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        if len(negatives) != len(prompts):
            raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one, or one for each")
        task = task or TextToVideo()
        canvas = self.canvas(num_frames or self.num_frames, height or self.height, width or self.width)
        levels = self.levels(canvas, self.num_steps if num_steps is None else num_steps)
        self._warn(canvas)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with evaluating(self.net, self.codec, self.text):
            plan = task(canvas)
            plan.check(len(prompts))
            levels = start_at(levels, plan.strength)
            cond, uncond = self.condition(prompts), self.condition(negatives, told=False)
            if self.offload_text and self.text is not None:
                self.text.cpu()
            size = self.batch_size or len(prompts)
            starts = range(0, len(prompts), size)
            timer = Timer(len(starts) * plan.chunks * (len(levels) - 1), progress, self.device)
            made = []
            for rows in (slice(start, start + size) for start in starts):
                told, untold = ({key: value[rows] for key, value in each.items()} for each in (cond, uncond))
                generators = [torch.Generator().manual_seed(seed) for seed in seeds[rows]]
                made.append(self._make(Job(told, untold, generators, plan.rows(rows), canvas, levels, timer)))
        pixels, latents = (torch.cat(part) for part in zip(*made, strict=True))
        info = self._info(prompts, seeds, negatives, task, pixels, len(levels) - 1, timer)
        seconds, memory = info["seconds_per_step"], info["peak_memory_gb"]
        log.info("%d samples: %.3f s a step, peak memory %.2f GB", len(prompts), seconds, memory)
        return Samples(pixels, latents, info)

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

    def condition(self, prompts: Sequence[str | int], told: bool = True) -> dict[str, Tensor]:
        """What the network is told of each prompt; for `told=False` labels say "no class"."""
        cond = {"fps": torch.full((len(prompts),), float(self.fps), device=self.device)}
        if self.num_classes is not None:
            classes = [class_of(prompt, self.num_classes) if told else self.num_classes for prompt in prompts]
            cond["label"] = torch.tensor(classes, device=self.device)
        if self.text is not None:
            texts = [str(prompt) for prompt in prompts]
            distinct = list(dict.fromkeys(texts))  # a text encoder may be larger than the network: each prompt once
            encoded = self.text.to(self.device)(distinct)
            index = torch.tensor([distinct.index(text) for text in texts], device=self.device)
            cond |= {key: value[index] for key, value in encoded.items()}
        return cond

    def _make(self, job: Job) -> tuple[Tensor, Tensor]:
        """(pixels, latents) of one batch, on the CPU."""
        plan, canvas = job.plan, job.canvas
        clips = roll_out(
            lambda given: self._denoise(job, given), self._decode, canvas, plan.given, plan.chunks, plan.num_context
        )
        latents, pixels = zip(*((latents.cpu(), pixels) for latents, pixels in clips), strict=True)
        shared = canvas.latent_of_frame()[plan.num_context - 1] + 1 if plan.num_context else 0
        return stitch(pixels, plan.num_context), stitch(latents, shared)

    def _denoise(self, job: Job, given: Given | None) -> Tensor:
        """Latents (B, C, F, H, W) of one clip."""
        codec: Any = self.codec
        shape = (codec.channels, *job.canvas.latent_shape)
        noise = draw(job.generators, shape).to(self.device)
        known, places = noise, torch.zeros_like(noise[:, :1], dtype=torch.bool)  # nothing
        if given is not None:
            given = given.rows(slice(0, len(noise)), noise)
            known, places = given.latents.expand_as(noise), given.places
        denoiser = Denoiser(self.net, self.path, self.prediction)
        told, untold = (with_given(cond, self.net, known, places) for cond in (job.cond, job.uncond))
        guided = self.guidance(denoiser, told, untold)
        denoise = hold(guided, given, noise, self.path, self.context_level)
        if job.plan.start is None:
            x = self.path.prior_std * noise
        else:
            x = self.path.mix(job.plan.start.to(noise), noise, job.levels[0].to(noise))
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None), job.timer:
            x = self.solver(
                denoise,
                x,
                job.levels,
                self.path,
                on_step=lambda *_: job.timer.step(),
                noise=lambda: draw(job.generators, shape).to(self.device),
            )
        return x if given is None else given.put_back(x)

    def _decode(self, latents: Tensor) -> Tensor:
        """Pixels on the CPU, one sample at a time: decoders want more memory than the network."""
        codec: Any = self.codec
        return torch.cat([codec.decode(one).float().clamp(-1, 1).cpu() for one in latents.split(1)])

    def _warn(self, canvas: Canvas) -> None:
        """Says where a sample leaves what the checkpoint was trained for."""
        if self.trained is None:
            return
        for name in ("num_frames", "height", "width", "fps"):
            trained, asked = getattr(self.trained, name), getattr(canvas, name)
            if trained != asked:
                log.warning("sampling with %s=%g, but the checkpoint was trained with %g", name, asked, trained)
        if self.schedule != self.trained.schedule:
            log.warning("sampling with %s, but the checkpoint was trained for %s", self.schedule, self.trained.schedule)

    def _info(
        self,
        prompts: Sequence[str | int],
        seeds: Sequence[int],
        negatives: Sequence[str],
        task: Task,
        pixels: Tensor,
        steps: int,
        timer: Timer,
    ) -> dict[str, Any]:
        return {
            "prompts": list(prompts),
            "seeds": list(seeds),
            "negative_prompts": list(negatives),
            "weights": self.weights,
            "task": type(task).__name__,
            "num_frames": pixels.shape[2],
            "height": pixels.shape[3],
            "width": pixels.shape[4],
            "fps": self.fps,
            "num_steps": steps,
            "schedule": repr(self.schedule),
            "solver": repr(self.solver),
            "guidance": repr(self.guidance),
            "context_level": self.context_level,
            "precision": str(self.precision or "as the weights"),
            "device": str(self.device),
            "seconds_per_step": timer.seconds / max(timer.done, 1),
            "peak_memory_gb": peak_memory(self.device) / 1e9,
        }


def draw(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Unit noise (B, *shape), each sample from its own generator on the CPU: the same bits on every device."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def start_at(levels: Tensor, strength: float) -> Tensor:
    """`levels` from `strength` on: what is noisier is left out."""
    if strength >= 1:
        return levels
    return torch.cat([levels.new_tensor([strength]), levels[levels < strength]])


def class_of(prompt: str | int, num_classes: int) -> int:
    """A class number from a prompt; `num_classes` itself, or "", is "no class"."""
    if prompt == "":
        return num_classes
    if not str(prompt).isdecimal() or int(prompt) > num_classes:
        raise ValueError(f"prompt={prompt!r}: this network knows classes 0 to {num_classes - 1}, and no texts")
    return int(prompt)
