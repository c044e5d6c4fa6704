"""Run by test_parallel.py under torchrun with two processes: trains with DDP and FSDP2 and leaves what it found.

Both strategies in one process group, because starting processes is what takes time.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback

import dit.diffusion.loss
from dit.engine import parallel, shards
from dit.engine.callbacks.after_step import AfterStep
from dit.engine.callbacks.preview import Preview
from dit.engine.ema import EMA
from tests.engine import small


class Gradients(Callback):
    """Keeps whole gradients and the mean loss of each step, before clipping."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        loss = pl_module.last_step.losses["net"].shown.clone()
        dist.all_reduce(loss)
        grads = {n: shards.whole(shards.local(p.grad), p) for n, p in pl_module.named_parameters()}
        self.steps.append({"loss": loss / 2, "grads": grads})


class Breaks(Preview):
    """Fails on the second rank, in the middle of its solver steps."""

    def _sample(self, trainer: Any, module: Any, step: int, folder: Path, ask: Any) -> None:
        if dist.get_rank() == 1:
            ask()  # the other rank's first question
            raise RuntimeError("out of memory")
        super()._sample(trainer, module, step, folder, ask)
        raise AssertionError("went on without the other rank")


class Previews(Callback):
    """Three prompts on two ranks, in the middle of a run: it must neither hang nor change the training. Nor must one
    that fails on one rank (of copies: shards wait for each other inside the network)."""

    def __init__(self, breaks: bool) -> None:
        self.breaks = breaks

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        ema = next(c for c in trainer.callbacks if isinstance(c, EMA))
        after_step = next(c for c in trainer.callbacks if isinstance(c, AfterStep))
        for kind in (Preview, *([Breaks] if self.breaks else [])):
            preview = kind(
                ema, small.Writers([]), small.pipeline(pl_module), every=4, prompts=["one", "two", "three"], seed=5
            )
            after_step.tasks = [*after_step.tasks, preview]


class Swaps(Callback):
    """Swaps the average in and out after each update: the weights must come back, and be the average in between."""

    def __init__(self) -> None:
        self.right: list[bool] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        from dit.engine.ema import trainable

        ema = next(c for c in trainer.callbacks if isinstance(c, EMA))
        before = {n: shards.local(p).clone() for n, p in trainable(pl_module).items()}
        with ema.swapped(pl_module):
            inside = {n: shards.local(p).clone() for n, p in trainable(pl_module).items()}
        after = {n: shards.local(p) for n, p in trainable(pl_module).items()}
        self.right.append(
            all(torch.equal(before[n], after[n]) and torch.equal(inside[n], ema.averages[ema.use][n]) for n in before)
        )


def strategy(name: str, find_unused_parameters: bool = False) -> Any:
    if name == "ddp":
        return parallel.DDP(
            find_unused_parameters, gradient_as_bucket_view=True, static_graph=False, timeout_minutes=10
        )
    return parallel.FSDP2(reshard_after_forward=True, param_dtype=None, reduce_dtype=None, timeout_minutes=10)


def main(out: Path) -> None:
    noise = dit.diffusion.loss.noise_like
    for name in ("ddp", "fsdp2"):
        run = out / name

        # The same clips and noise as one process on the joined batch: gradients can be compared.
        dit.diffusion.loss.noise_like = small.fixed_noise
        gradients, swaps = Gradients(), Swaps()
        module = small.model(max_steps=4, caption_dropout=0.0, objective=small.objective(small.OneLevel()))
        small.train(
            module, run / "joined", small.video_data(batch_size=2), [gradients],
            strategy=strategy(name), devices=2, gradient_clip_norm=1.0,
        )  # fmt: skip
        if dist.get_rank() == 0:
            torch.save(gradients.steps, run / "gradients.pt")
        dit.diffusion.loss.noise_like = noise

        # Six steps at once, and three and three: the same bits, with random noise and captions dropped.
        for steps, where in ((6, "straight"), (3, "broken"), (6, "broken")):
            watched = [swaps, Previews(breaks=name == "ddp")] if where == "straight" else []
            small.train(
                small.model(max_steps=steps, seed=int(steps > 3 and where == "broken")), run / where,
                small.video_data(batch_size=2), after=watched,
                strategy=strategy(name), devices=2,
            )  # fmt: skip
        assert swaps.right and all(swaps.right), (name, swaps.right)
        dist.barrier()
    # Three steps with copies, then three with shards.
    for steps, name in ((3, "ddp"), (6, "fsdp2")):
        module = small.model(max_steps=steps, seed=0 if steps == 3 else 1)
        small.train(module, out / "crossed", small.video_data(batch_size=2), strategy=strategy(name), devices=2)
    if find_spec("peft") is not None:
        adapters(out)
    several_networks(out)
    idle_parameter(out)


def several_networks(out: Path) -> None:
    """Student, critic and teacher, the student in every second step: six steps beside three and three, with copies,
    with shards, and first the one and then the other."""
    for where, parts in {
        "ddp/distilled": [(6, "ddp")],
        "fsdp2/distilled": [(6, "fsdp2")],
        "ddp/distilled_broken": [(3, "ddp"), (6, "ddp")],
        "fsdp2/distilled_broken": [(3, "fsdp2"), (6, "fsdp2")],
        "crossed_distilled": [(2, "ddp"), (4, "fsdp2"), (6, "ddp")],
    }.items():
        for seed, (steps, name) in enumerate(parts):
            module = small.distilled(2, max_steps=steps, seed=seed)
            small.train(
                module, out / where, small.video_data(batch_size=2), callbacks={"preview_every": 6},
                strategy=strategy(name, find_unused_parameters=True), devices=2,
            )  # fmt: skip


def adapters(out: Path) -> None:
    """Adapters beside weights that stand still: they are those of the first seed, whatever a later part begins with."""
    for where, parts in {
        "ddp/adapters": [(6, "ddp")],
        "fsdp2/adapters": [(6, "fsdp2")],
        "crossed_adapters": [(2, "ddp"), (4, "fsdp2"), (6, "ddp")],
    }.items():
        for seed, (steps, name) in enumerate(parts):
            module = small.adapted(max_steps=steps, seed=seed)
            small.train(module, out / where, small.video_data(batch_size=2), strategy=strategy(name), devices=2)


def idle_parameter(out: Path) -> None:
    """A parameter that the loss does not reach, amid the others: three steps and then three, beside six at once."""
    for name in ("ddp", "fsdp2"):
        for steps, where in ((6, "idle"), (3, "idle_broken"), (6, "idle_broken")):
            module = small.idle(max_steps=steps, seed=int(steps > 3 and where == "idle_broken"))
            small.train(
                module, out / name / where, small.video_data(batch_size=2),
                strategy=strategy(name, find_unused_parameters=True), devices=2,
            )  # fmt: skip
    try:  # last, since Lightning ends more than the run that failed
        small.train(small.idle(), out / "refused", small.video_data(batch_size=2), strategy=strategy("ddp"), devices=2)
    except ValueError as error:
        (out / f"refused-{dist.get_rank()}.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
