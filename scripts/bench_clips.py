"""How fast are clips read, and does the memory of a worker grow?

    python scripts/bench_clips.py root=clips                                # speed, beside plain decord, and memory
    python scripts/bench_clips.py root=clips decoder=pyav reads=500         # another ladder of configs/data/decoder
    python scripts/bench_clips.py root=clips repeats=20 reads=0             # speed alone

Speed: the same excerpts by plain decord (`VideoReader(path, num_threads=1).get_batch(...)`, no more) and as training
reads them (looked at, decoded, cropped, resized), in turn, in one process, by wall clock and by processor time of all
its threads. A ratio is of frames a second, ours / decord's, turn by turn; above 1 is faster. Videos that decord cannot
read, or reads wrongly, are left out and counted.

Memory: a worker of torch's loader reads all files, spoiled ones too, over and over: what it holds for itself after
`settle` reads and at the end, the median of a hundred reads each.

Printed are medians and the quartiles in brackets.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from data.clips import ClipDataset
from data.decode import Decord, Ladder
from data.excerpts import RandomView, pick_frames
from data.manifest import Manifest, read_manifest
from data.on_disk import on_disk
from data.source import BadClip, look
from data.workers import leave_signals_to_trainer
from dit.config.build import build
from dit.entry import CONFIGS, options
from scripts.clock import machine, spread
from scripts.settings import run, values

MANY = 100  # reads whose median is a figure of memory


@dataclass(frozen=True)
class Settings:
    """`name=value` on the command line."""

    root: str = ""  # a folder of videos
    decoder: str = "auto"  # of configs/data/decoder
    num_frames: int = 16
    fps: float = 8.0
    height: int = 128
    width: int = 128
    repeats: int = 10  # turns that count, of one excerpt of each video
    warmup: int = 2  # turns that do not
    reads: int = 2000  # of one worker, after `settle`; 0 leaves memory out
    settle: int = 200
    threads: int = 1  # torch's; a worker of its loader has one


@dataclass(frozen=True)
class Excerpt:
    """What one turn reads of one video."""

    path: str
    index: int  # in the manifest
    epoch: int
    frames: Sequence[int]


def main(arguments: list[str]) -> None:
    settings = Settings(**values(arguments, Settings))
    if settings.decoder not in (there := options("data/decoder")):
        raise ValueError(f"decoder={settings.decoder} is not in configs/data/decoder; there are {', '.join(there)}")
    if not settings.root:
        raise ValueError("root=FOLDER with videos is needed")
    torch.set_num_threads(settings.threads)
    clips = read_manifest(settings.root, None)
    ladder = build(OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / "decoder" / f"{settings.decoder}.yaml")))
    dataset = dataset_of(clips, ladder, settings)
    print(f"command: python scripts/bench_clips.py {' '.join(arguments)}")
    print(f"machine: {machine(torch.device('cpu'))}, torch {torch.__version__}, {versions()}, {date.today()}")
    print(f"settings: {settings}")
    print(f"decoders: {' -> '.join(each.name for each in ladder.decoders)}")
    speed(dataset, settings)
    if settings.reads:
        memory(dataset, settings)


def dataset_of(clips: Manifest, ladder: Ladder, settings: Settings) -> ClipDataset:
    shape = (settings.num_frames, settings.height, settings.width, settings.fps)
    return ClipDataset(clips, ladder, RandomView(0), *shape)


def versions() -> str:
    """Of what decodes, as it is installed."""
    found = {each.metadata["Name"].lower(): each.version for each in metadata.distributions()}
    return ", ".join(f"{name} {found[name]}" for name in ("decord", "decord2", "torchcodec", "av") if name in found)


def speed(dataset: ClipDataset, settings: Settings) -> None:
    """Prints a table of plain decord, our decoding alone, and all that training does to a clip."""
    if (why := Decord().missing()) is not None:
        print(f"no speed: plain decord is what it is held against, and it cannot run ({why})")
        return
    decord = importlib.import_module("decord")
    readable, left_out = readable_by_decord(dataset, settings)
    for path, reason in left_out.items():
        print(f"left out: {path}: {reason}")
    if not readable:
        print("no speed: decord can read none of the videos")
        return

    def plain(excerpt: Excerpt) -> None:
        reader = decord.VideoReader(on_disk(excerpt.path), ctx=decord.cpu(0), num_threads=1)
        reader.get_batch(list(excerpt.frames)).asnumpy()

    ways: dict[str, Callable[[Excerpt], Any]] = {
        "plain decord": plain,
        "looked at, decoded": lambda excerpt: dataset.decoder.frames(excerpt.path, excerpt.frames),
        "as training reads it": lambda excerpt: dataset.draw(excerpt.index, excerpt.epoch),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(settings.warmup + settings.repeats):
        excerpts = [excerpt_of(dataset, index, turn, settings) for index in readable]
        # The order turns around, so that nobody always follows the one that brings the files into the cache.
        for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
            began, used = time.perf_counter(), time.process_time()
            for excerpt in excerpts:
                way(excerpt)
            wall[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    for times in (*wall.values(), *processor.values()):
        del times[: settings.warmup]
    frames = settings.num_frames * len(readable)
    print(f"{len(readable)} videos, an excerpt of {settings.num_frames} frames of each a turn\n")
    print("| | frames/s | ms of processor time a frame | ratio, wall clock | ratio, processor time |")
    print("| --- | --- | --- | --- | --- |")
    for name in ways:
        cells = [
            spread([frames / seconds for seconds in wall[name]], ".0f"),
            spread([1e3 * seconds / frames for seconds in processor[name]], ".2f"),
            *(
                spread([of / own for of, own in zip(times["plain decord"], times[name], strict=True)], ".3f")
                for times in (wall, processor)
            ),
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def readable_by_decord(dataset: ClipDataset, settings: Settings) -> tuple[list[int], dict[str, str]]:
    """Rows that decord reads rightly, and why it does not read the others."""
    rows, left_out = [], {}
    alone = Ladder(decoders=[Decord()])
    for index in range(len(dataset)):
        row = dataset.manifest[index]
        if row.is_image:
            continue
        try:
            alone.frames(row.path, excerpt_of(dataset, index, 0, settings).frames)
            rows.append(index)
        except BadClip as error:
            left_out[row.id] = error.why
    return rows, left_out


def excerpt_of(dataset: ClipDataset, index: int, epoch: int, settings: Settings) -> Excerpt:
    row = dataset.manifest[index]
    start, _, _ = dataset.view(index, epoch)
    with look(row.path) as source:
        frames = pick_frames(source.timeline, row, settings.num_frames, settings.fps, start)
    return Excerpt(os.fspath(row.path), index, epoch, frames)


class Weighed(Dataset[tuple[int, torch.Tensor]]):
    """Clips, each with the bytes that the process which read it holds for itself."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor]:
        epoch, index = divmod(number, len(self.dataset))
        pixels = self.dataset.draw(index, epoch)["pixels"]
        return own_memory(), pixels


def own_memory() -> int:
    """Bytes of this process that no other shares: on Linux, those that are no file's and not in shared memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def memory(dataset: ClipDataset, settings: Settings) -> None:
    """Prints what one worker holds, early and late."""
    try:
        own_memory()
    except (OSError, StopIteration):
        print("no memory: this system does not tell what a process holds")
        return
    loader: DataLoader[Any] = DataLoader(
        Weighed(dataset),
        batch_size=None,
        sampler=range(settings.settle + settings.reads),
        num_workers=1,
        worker_init_fn=leave_signals_to_trainer,
    )
    held = [bytes_held for bytes_held, _ in loader]
    early = median(held[max(0, settings.settle - MANY) : settings.settle + 1])
    late = median(held[-MANY:])
    print(
        f"\nmemory of a worker: {early / 2**20:.1f} MiB after {settings.settle} reads, {late / 2**20:.1f} MiB after "
        f"{settings.reads} more ({late / early - 1:+.1%}), the most {max(held[settings.settle :]) / 2**20:.1f} MiB"
    )
    thousands = range(settings.settle, len(held), max(1, settings.reads // 8))
    print(f"on the way, MiB: {' '.join(f'{median(held[at : at + MANY]) / 2**20:.1f}' for at in thousands)}")


if __name__ == "__main__":
    run(main, __doc__, Settings)
