"""Run by test_parallel.py in two processes: trains with DDP and FSDP2 and leaves what it found.

Both strategies in one process group, because starting processes is what takes time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from lightning import Callback, LightningDataModule
from torch.utils.data import DataLoader

import dit.diffusion.loss
from data.batch import Batch, collate
from dit.codec.vae import network
from dit.engine import parallel, resume, run, shards
from dit.engine.callbacks.after_step import AfterStep
from dit.engine.callbacks.checkpoint import point
from dit.engine.callbacks.preview import Preview
from dit.engine.ema import EMA
from scripts import cache_latents
from tests.engine import small
from tests.engine.runs import STEADY, autoencoder, config


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

    def _sample(self, trainer: Any, module: Any, step: int, ask: Any) -> Any:
        if dist.get_rank() == 1:
            ask()  # the other rank's first question
            raise RuntimeError("out of memory")
        super()._sample(trainer, module, step, ask)
        raise AssertionError("went on without the other rank")


class Unprepared(Preview):
    """Fails on the second rank before it needs the network."""

    def _sample(self, trainer: Any, module: Any, step: int, ask: Any) -> Any:
        if dist.get_rank() == 1:
            raise ValueError("a prompt of this rank's own")
        super()._sample(trainer, module, step, ask)
        raise AssertionError("went on without the other rank")


class Undecoded(Preview):
    """Fails on the second rank behind its last solver step."""

    def _sample(self, trainer: Any, module: Any, step: int, ask: Any) -> Any:
        def decode(latents: Any) -> Any:
            raise RuntimeError("out of memory while decoding")

        real = module.codec.decode
        if dist.get_rank() == 1:
            module.codec.decode = decode
        try:
            return super()._sample(trainer, module, step, ask)
        finally:
            module.codec.decode = real


class Unvalidated(Callback):
    """The second rank cannot read the validation clips."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        def fails(*args: Any) -> Any:
            raise OSError("stale file handle")

        if dist.get_rank() == 1:
            pl_module.validation_step = fails


class Warnings(logging.Handler):
    """Keeps what previews warn of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


class Previews(Callback):
    """Three prompts on two ranks, in the middle of a run: it must neither hang nor change the training. Nor must one
    that fails on one rank; in the middle of its solver steps only where each rank has all of the network."""

    def __init__(self, copies: bool) -> None:
        self.kinds = (Preview, Unprepared, Undecoded, *([Breaks] if copies else []))

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        ema = next(c for c in trainer.callbacks if isinstance(c, EMA))
        after_step = next(c for c in trainer.callbacks if isinstance(c, AfterStep))
        for kind in self.kinds:
            of_run = ema, small.Writers([]), small.pipeline(pl_module), None
            preview = kind(*of_run, every=4, prompts=["one", "two", "three"], seed=5)
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


SIZES = ((3, 1), (1, 2))  # clips of the two micro-batches of a step, rank by rank


class UnevenData(LightningDataModule):
    """Ranks and micro-batches with different numbers of clips."""

    def train_dataloader(self) -> DataLoader[Batch]:
        rank, clips = dist.get_rank(), small.Clips(7)
        first = sum(map(sum, SIZES[:rank]))
        ends = [first, first + SIZES[rank][0], first + sum(SIZES[rank])]
        batches = [collate([clips[i] for i in range(*part)]) for part in pairwise(ends)]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def uneven(out: Path) -> None:
    """One step on seven clips, which are shared out unevenly."""
    noise, dit.diffusion.loss.noise_like = dit.diffusion.loss.noise_like, small.fixed_noise
    for name in ("ddp", "fsdp2"):
        gradients = Gradients()
        objective = small.objective(small.OneLevel())
        module = small.model(max_steps=1, caption_dropout=0.0, objective=objective, uneven=True)
        small.fit(module, [gradients], out / name, UnevenData(), strategy=strategy(name), devices=2, accumulate=2)  # type: ignore[arg-type]
        if dist.get_rank() == 0:
            torch.save(gradients.steps[0]["grads"], out / name / "uneven.pt")
    dit.diffusion.loss.noise_like = noise


def main(out: Path) -> None:
    noise, warnings = dit.diffusion.loss.noise_like, Warnings()
    logging.getLogger("dit.engine.callbacks.sampled").addHandler(warnings)
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
            watched = [swaps, Previews(copies=name == "ddp")] if where == "straight" else []
            small.train(
                small.model(max_steps=steps, seed=int(steps > 3 and where == "broken")), run / where,
                small.video_data(batch_size=2), after=watched,
                strategy=strategy(name), devices=2,
            )  # fmt: skip
        assert swaps.right and all(swaps.right), (name, swaps.right)
        (run / f"warnings-{dist.get_rank()}.txt").write_text("\n".join(warnings.said))
        warnings.said.clear()
        dist.barrier()
    # Three steps with copies, then three with shards.
    for steps, name in ((3, "ddp"), (6, "fsdp2")):
        module = small.model(max_steps=steps, seed=0 if steps == 3 else 1)
        small.train(module, out / "crossed", small.video_data(batch_size=2), strategy=strategy(name), devices=2)
    if find_spec("peft") is not None:
        adapters(out)
    several_networks(out)
    uneven(out)
    going_on(out)
    cache(out, "cache-two", "trainer=ddp")
    autoencoders(out)
    idle_parameter(out)
    broken_network(out)


def going_on(out: Path) -> None:
    """Runs that one process has begun (`begin`) go on: with as many clips a step, with more, and from a step back.

    The second rank is slow to look where the last of them begins: it waits for the first to act, though not for ever.
    """
    noise, dit.diffusion.loss.noise_like = dit.diffusion.loss.noise_like, small.fixed_noise
    here, find_start, take = Path.cwd(), resume.find_start, resume.take
    os.chdir(out)
    rank = dist.get_rank()
    run.train(config(*STEADY, "name=grown", "trainer=ddp", "data.batch_size=1", "trainer.accumulate=2", *SIX))
    try:
        run.train(config(*STEADY, "name=uneven", "trainer=ddp", "data.batch_size=4", *SIX))
    except ValueError as error:
        (out / f"uneven-{rank}.txt").write_text(str(error))

    def slow(*args: Any) -> resume.Start:
        waiting = 100 if rank == 1 else 0
        while waiting and not Path("runs/back/set_aside").exists():
            waiting -= 1
            time.sleep(0.01)
        found = find_start(*args)
        (out / f"looked-{rank}").touch()
        return found

    def watched(*args: Any) -> None:
        with (out / "looked.txt").open("a") as file:
            print(*sorted(looked.name for looked in out.glob("looked-*")), file=file)
        take(*args)

    resume.find_start, resume.take = slow, watched
    run.train(config(*STEADY, "name=back", "trainer=fsdp2", "data.batch_size=2", "resume_from=3", *SIX))
    resume.find_start, resume.take = find_start, take
    dit.diffusion.loss.noise_like = noise
    os.chdir(here)


SIX = ("trainer.max_steps=6", "trainer.accelerator=cpu", "trainer.gradient_clip_norm=1.0")


def begin(out: Path) -> None:
    """What one process leaves for `going_on`: six steps, and runs that look as if they had stopped at the third."""
    noise, dit.diffusion.loss.noise_like = dit.diffusion.loss.noise_like, small.fixed_noise
    with contextlib.chdir(out):
        run.train(config(*STEADY, "name=straight", *SIX))
        with patch.object(network, "drawn", most_likely):
            run.train(autoencoder(*PLAIN, "name=vae-joined", "data.batch_size=4"))
    dit.diffusion.loss.noise_like = noise
    cache(out, "cache-one")
    for name in ("grown", "uneven", "back"):
        shutil.copytree(out / "runs/straight", out / "runs" / name)
        if name != "back":
            folder = out / "runs" / name / "checkpoints"
            (folder / "step-00000006.ckpt").unlink()
            point(folder / "last.ckpt", folder / "step-00000003.ckpt")


def cache(out: Path, name: str, *overrides: str) -> None:
    """A latent cache, two clips to a shard."""
    asked = cache_latents.Asked(out=str(out / name))
    with patch.object(cache_latents, "bytes_of_clip", lambda *_: 2**27):
        cache_latents.make(asked, config(*STEADY, "name=cached", "trainer.accelerator=cpu", *overrides))


def autoencoders(out: Path) -> None:
    """With copies beside its discriminator: four steps, and two and two. Then, with shards too, what `begin` does with
    one process, in which nothing is drawn or weighed by the gradients of single clips."""
    with contextlib.chdir(out), patch.object(run, "reference_rate", lambda *_: (1e12, "not measured")):
        for name in ("ddp", "fsdp2"):
            unused = ["trainer.strategy.find_unused_parameters=true"] if name == "ddp" else []
            asked = (f"trainer={name}", "trainer.accelerator=cpu", *unused)
            for steps, where in ((4, "straight"), (2, "broken"), (4, "broken")) if name == "ddp" else ():
                run.train(autoencoder(*asked, f"name=vae-{name}-{where}", f"trainer.max_steps={steps}"))
            with patch.object(network, "drawn", most_likely):
                run.train(autoencoder(*asked, *PLAIN, f"name=vae-{name}-joined", "data.batch_size=2"))


def most_likely(mean: Any, log_variance: Any) -> Any:
    return mean


PLAIN = (
    "recipe.adversary.first_step=100", "optim=adamw", "optim.lr=0.01", "optim.eps=0.01", "trainer.max_steps=3",
)  # fmt: skip


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
            parts = {"critic": module.critic, "teacher": module.teacher}  # type: ignore[attr-defined]
            held = {part: sum(shards.local(p).numel() for p in net.parameters()) for part, net in parts.items()}
            (out / where / f"held-{dist.get_rank()}.json").write_text(json.dumps(held))


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
    try:
        callbacks = {"every": 100, "validate_every": 2}
        small.train(
            small.model(max_steps=6), out / "unvalidated", small.video_data(batch_size=2), [Unvalidated()],
            callbacks=callbacks, strategy=strategy("ddp"), devices=2,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        (out / f"unvalidated-{dist.get_rank()}.txt").write_text(f"{type(error).__name__}: {error}")
    try:
        small.train(small.idle(), out / "refused", small.video_data(batch_size=2), strategy=strategy("ddp"), devices=2)
    except ValueError as error:
        (out / f"refused-{dist.get_rank()}.txt").write_text(str(error))


def broken_network(out: Path) -> None:
    """A rank that fails inside a sharded network: the step is saved and both end with a line. Last, since the ranks are
    no longer in step with each other."""

    def fails(net: Any, args: Any) -> None:
        if not net.training and dist.get_rank() == 1:
            raise RuntimeError("out of memory")

    module = small.model(max_steps=6)
    module.net.register_forward_pre_hook(fails)
    rank, callbacks = dist.get_rank(), {"every": 100, "validate_every": 100, "preview_every": 2}
    try:
        small.train(
            module, out / "broken_network", small.video_data(batch_size=2), callbacks=callbacks,
            strategy=strategy("fsdp2"), devices=2,
        )  # fmt: skip
    except ValueError as error:
        (out / f"broken_network-{rank}.txt").write_text(str(error))
    # The other rank waits in the network until this one is gone.
    os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
