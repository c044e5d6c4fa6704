"""One command of `sample.py`: its config as samples to be made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from dit.interop.published import Asked
from dit.sampling import parts, record
from dit.sampling.job import Job
from dit.sampling.pipeline import Pipeline
from dit.sampling.ranks import Ranks
from dit.sampling.request import heard, requests
from dit.sampling.runtime import Progress
from dit.sampling.settings import NAMES
from dit.signals.base import known

MODEL = ("weights", "device", "low_noise_ckpt", "boundary", "trusted", "folders")
REQUEST = ("prompt", "prompt_file", "negative_prompt", "num_samples", "seed", "label", "signals")


@dataclass(frozen=True)
class Session:
    """Samples that are asked for.

    Attributes:
        facts: of each sample that is wanted, in order.
        only: the one position of the (single) batch that is wanted; None: all samples of all batches.
    """

    pipeline: Pipeline
    job: Job
    facts: list[dict[str, Any]]
    only: int | None = None

    def clips(
        self, has: Callable[[int], bool], ranks: Ranks, progress: Progress | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """(which sample, its pixels), a batch at a time, of this rank's share of the batches that are not there yet."""
        # Shared out first: another rank may have written some of its own already.
        share = ranks.share(range(len(self.job.batches)))
        mine = [batch for batch in share if not all(has(index) for index, _ in self.rows(batch))]
        for batch, samples in zip(mine, self.pipeline.make(self.job, mine, progress), strict=True):
            for index, position in self.rows(batch):
                yield index, samples.pixels[position]

    def rows(self, batch: int) -> list[tuple[int, int]]:
        """(which sample, its position in the batch) of all that are wanted of a batch."""
        if self.only is not None:
            return [(0, self.only)]
        rows = self.job.rows(batch)
        return [(index, index - rows.start) for index in range(rows.start, rows.stop)]


def session(ask: Mapping[str, Any]) -> Session:
    """What the keys of configs/sample.yaml ask for, built and checked; nothing is denoised or written.

    Raises:
        ValueError, FileNotFoundError: in one line, for whatever cannot be.
    """
    if ask["again"] is not None:
        return _again(ask)
    if (ask["ckpt"] is None) == (ask["pretrained"] is None):
        what = "ckpt is missing" if ask["ckpt"] is None else "ckpt and pretrained are both given"
        raise ValueError(f"{what}; give one of both: ckpt=runs/..., or pretrained= the folder of a published model")
    if ask["ckpt"] is not None and ask["causal_block"] is not None:
        raise ValueError(
            f"causal_block={ask['causal_block']} is for pretrained=; a checkpoint's network has the blocks that it was"
            " trained with: leave it out"
        )
    wanted = requests(*(ask[key] for key in REQUEST))
    changes = {"parts": parts.asked(ask), **{key: ask[key] for key in NAMES}}
    if ask["pretrained"] is not None:
        own = {name: ask[name] for name in ("trusted", "causal_block")}
        pipeline = Pipeline.from_pretrained(ask["pretrained"], ask["device"], **own, **changes)
    else:
        pipeline = Pipeline.from_checkpoint(ask["ckpt"], **{key: ask[key] for key in MODEL}, **changes)
    if ask["text_cache"] is not None:
        _keep_in(pipeline.text, ask["text_cache"])
    job = pipeline.prepare(heard(wanted, known(pipeline.signals)), task=ask["task"])
    return Session(pipeline, job, pipeline.facts(job))


def _keep_in(text: Any, folder: str) -> None:
    if not hasattr(text, "keep_in"):
        raise ValueError(
            f"text_cache={folder} is for text encoders of published models, and this network has its own, or none:"
            " leave it out"
        )
    text.keep_in(folder)


def _again(ask: Mapping[str, Any]) -> Session:
    before = record.read(ask["again"], ask["trusted"])
    of_sampler = {name: part for name, part in before.parts.items() if name != "task"}
    kept = {key: ask[key] for key in ("device", "offload_text", "offload_experts", "reuse_text", "trusted")}
    kept["parts"] = before.facts.get("parts", {})
    if before.checkpoint.is_dir():  # of a published model
        own = {each.name: before.facts["checkpoint"].get(each.name) for each in fields(Asked)}
        settings = {name: value for name, value in before.settings.items() if name != "weights"}
        pipeline = Pipeline.from_pretrained(before.checkpoint, **own, **kept, **of_sampler, **settings)
    else:
        kept |= {"folders": ask["folders"], "low_noise_ckpt": before.low_noise_ckpt, "boundary": before.boundary}
        pipeline = Pipeline.from_checkpoint(before.checkpoint, **kept, **of_sampler, **before.settings)
    job = pipeline.prepare(before.batch, task=before.parts["task"])
    facts = {key: value for key, value in before.facts.items() if key != "versions"}
    facts["device"] = pipeline.info(job, [])["device"]
    return Session(pipeline, job, [facts], before.position)
