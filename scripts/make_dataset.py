"""Makes sets of clips that anyone can make again, byte for byte, from packages of the ordinary registry.

    python scripts/make_dataset.py moving_mnist               # 10,000 clips into datasets/moving_mnist
    python scripts/make_dataset.py atari --games pong breakout --clips 1000
    python scripts/make_dataset.py doom --jobs 8
    python scripts/make_dataset.py world clips                # 30 small files with captions: docs/own_clips.md

moving_mnist, atari and doom want `pip install -r requirements-sets.txt`; world needs nothing. Each folder gets a
manifest (captions, licences, actions, ...) and a README. The same command goes on with a set that was interrupted,
and more `--clips` add to one that is there. docs/sets.md says what is in them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.sets.atari import GAMES, Atari
from data.sets.base import ClipSet, Made
from data.sets.doom import SCENARIOS, Doom
from data.sets.make import make
from data.sets.moving_mnist import FRAMES, MovingMNIST
from data.worlds.world import World
from dit.config.build import build
from dit.entry import CONFIGS, one_line_errors
from dit.entry.command import INTERRUPTED
from dit.media.files import atomic
from dit.media.video import write_video

SETS = Path("datasets")


class WorldFiles:
    """Clips of the built-in world as files like anyone's: MP4s of 96x96 pixels, 16 frames a second and 2 seconds,
    PNGs, and a text file beside each with its caption."""

    name = "world"
    fps = 16.0
    lossless = False
    captions_beside = True
    packages = ()
    manifest = "list.jsonl"  # beside captions in files: either can be trained on
    frames, size = 32, 96

    def __init__(self, seed: int, videos: int, images: int) -> None:
        self.seed, self.videos, self.images = seed, videos, images
        self.count = videos + images
        self.world = self._world()
        self.prompts = self.world.prompts(self.count)

    def _world(self) -> World:
        """The demo's world, filmed larger, longer and at twice its frame rate."""
        frames, size = f"data.num_frames={self.frames}", [f"data.{side}={self.size}" for side in ("height", "width")]
        slow = (
            "data.train.speeds.plain=0.2"  # in 2 seconds an object crosses no more of the picture than in the demo's 1
        )
        seeds = (f"seed={self.seed}", f"data.train.seed={self.seed}")
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", ["data=demo", frames, *size, f"data.fps={self.fps:g}", slow, *seeds])
        made: World = build(OmegaConf.to_container(config.data.train, resolve=True), "data.train")
        return made

    def settings(self) -> Mapping[str, Any]:
        return {"seed": self.seed, "videos": self.videos, "images": self.images}

    def clip(self, index: int) -> Made:
        caption = self.prompts[index]
        pixels = self.world.film(caption, seed=index).pixels
        name = f"video-{index:03d}"
        if index >= self.videos:
            middle = self.frames // 2
            pixels, caption = pixels[middle : middle + 1], caption.partition(" moves")[0]
            name = f"image-{index:03d}"
        return Made(pixels, caption, {"licence": "generated", "source": World.__module__}, name)

    def about(self) -> str:
        count = f"{self.videos} videos and {self.images} images"
        return f"# Clips of the built-in world\n\n{count}, drawn by this project: nobody else has rights to them.\n"


def write(file: Path, made: Made, clips: ClipSet) -> None:
    """One clip: a PNG of a single frame, else an MP4 that says whose it is."""
    if len(made.frames) == 1:
        with atomic(file) as part:
            Image.fromarray(made.frames[0]).save(part, "png")
        return
    pixels = torch.from_numpy(np.ascontiguousarray(made.frames.transpose(3, 0, 1, 2)))
    about = {name: str(made.columns[name]) for name in ("licence", "source")}
    write_video(file, pixels, clips.fps, about, lossless=clips.lossless, reproducible=True)


def parsed(arguments: list[str]) -> argparse.Namespace:
    head, _, more = str(__doc__).partition("\n\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="SET")

    def add(name: str, clips: int | None, about: str) -> argparse.ArgumentParser:
        own = kinds.add_parser(
            name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        own.add_argument("folder", type=Path, nargs="?", default=SETS / name, help="where the set is made")
        if clips is not None:
            own.add_argument("--clips", type=int, default=clips, help="how many; every tenth is of the split test")
        own.add_argument("--seed", type=int, default=0, help="another seed makes other clips")
        own.add_argument("--jobs", type=int, default=1, help="processes that make clips")
        return own

    mnist = add(
        "moving_mnist", 10_000, "Moving MNIST of scikit-learn's digits: 64x64 pixels, 10 frames are predicted from 10"
    )
    mnist.add_argument("--digits", type=int, default=2, help="of each clip")
    atari = add("atari", 1_000, "games of the Atari 2600 with the action of each frame; their licence is unknown")
    atari.add_argument("--games", nargs="+", default=GAMES, help="as ale-py names them")
    doom = add("doom", 1_000, "Doom with Freedoom's pictures, with the action of each frame")
    doom.add_argument("--scenarios", nargs="+", default=SCENARIOS, help="as vizdoom names them")
    for own, frames in ((mnist, FRAMES), (atari, 64), (doom, 64)):
        own.add_argument("--frames", type=int, default=frames, help="of each clip")
    world = add("world", None, "small clips of the built-in world, as files like anyone's")
    world.add_argument("--videos", type=int, default=24, help="how many MP4s")
    world.add_argument("--images", type=int, default=6, help="how many PNGs")
    return parser.parse_args(arguments)


def chosen(asked: argparse.Namespace) -> tuple[ClipSet, int]:
    """The set that is asked for, and how many clips of it."""
    counts = {
        name: value for name, value in vars(asked).items() if name in ("clips", "videos", "images", "seed", "frames")
    }
    for name, value in {**counts, "jobs": asked.jobs}.items():
        least = 1 if name in ("clips", "frames", "jobs") else 0
        if value < least:
            raise ValueError(f"--{name} {value} must be at least {least}")
    if asked.kind == "world":
        if asked.videos + asked.images < 1:
            raise ValueError("--videos 0 --images 0 leaves no clip to make")
        files = WorldFiles(asked.seed, asked.videos, asked.images)
        return files, files.count
    if asked.kind == "moving_mnist":
        return MovingMNIST(asked.seed, asked.frames, asked.digits), asked.clips
    if asked.kind == "atari":
        return Atari(asked.seed, asked.games, asked.frames), asked.clips
    return Doom(asked.seed, asked.scenarios, asked.frames), asked.clips


def command_of(asked: argparse.Namespace) -> str:
    """The command that makes the same set on any machine."""
    words = ["python", "scripts/make_dataset.py", asked.kind]
    for name, value in vars(asked).items():
        if name not in ("kind", "folder", "jobs"):
            words += [f"--{name}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
    return shlex.join(words)


def main() -> None:
    asked = parsed(sys.argv[1:])
    clips, count = chosen(asked)
    list_of = asked.folder / clips.manifest
    there = make(clips, asked.folder, count, write, command_of(asked), asked.jobs)
    before = next(there)
    if before >= count:
        print(f"{list_of}: {before} clips are there; nothing is left to do")
        return
    with tqdm(total=count, initial=before, unit="clip", desc=clips.name, file=sys.stderr) as bar:
        for _ in there:
            bar.update()
    print(f"{count} clips: {list_of}")


if __name__ == "__main__":
    with one_line_errors():
        try:
            main()
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            sys.exit(INTERRUPTED)
