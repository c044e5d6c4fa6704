"""Makes a folder of small clips with captions, to try the road from files to samples on: docs/own_clips.md.

    python scripts/make_clips.py clips                       # 24 videos and 6 images, the same on every machine
    python train.py experiment=real_clips data.root=clips name=clips

The clips show the built-in world, and are files like anyone's: MP4s of 96x96 pixels, 16 frames a second and 2 seconds,
PNGs, and a text file beside each with its caption.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.worlds.world import World
from dit.config.build import build
from dit.entry import CONFIGS, one_line_errors
from dit.media.video import write_video

SIZE, FRAMES, FPS = 96, 32, 16


def world(seed: int) -> World:
    """The demo's world, filmed larger, longer and at twice its frame rate."""
    shape = (f"data.height={SIZE}", f"data.width={SIZE}", f"data.num_frames={FRAMES}", f"data.fps={FPS}")
    slow = "data.train.speeds.plain=0.2"  # in 2 seconds an object crosses no more of the picture than in the demo's 1
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["data=demo", *shape, slow, f"seed={seed}", f"data.train.seed={seed}"])
    made: World = build(OmegaConf.to_container(config.data.train, resolve=True), "data.train")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to write; must be empty or not be there")
    parser.add_argument("--videos", type=int, default=24, help="how many MP4s")
    parser.add_argument("--images", type=int, default=6, help="how many PNGs")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other clips")
    asked = parser.parse_args()
    if min(asked.videos, asked.images, asked.seed) < 0 or asked.videos + asked.images < 1:
        raise ValueError("--videos, --images and --seed must be at least 0, and one clip must be left to make")
    if asked.folder.exists() and (not asked.folder.is_dir() or any(asked.folder.iterdir())):
        raise ValueError(f"{asked.folder} is there and not empty; name a new folder")
    asked.folder.mkdir(parents=True, exist_ok=True)
    clips = world(asked.seed)
    for index, caption in enumerate(clips.prompts(asked.videos + asked.images)):
        pixels = clips.film(caption, seed=index).pixels  # uint8 (F, H, W, 3)
        is_video = index < asked.videos
        file = asked.folder / f"{'video' if is_video else 'image'}-{index:03d}{'.mp4' if is_video else '.png'}"
        if is_video:
            write_video(file, torch.from_numpy(pixels.transpose(3, 0, 1, 2).copy()), FPS, {}, scale=1)
        else:
            Image.fromarray(pixels[FRAMES // 2]).save(file)
            caption = caption.partition(" moves")[0]
        file.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
    print(f"{asked.videos} videos and {asked.images} images with captions: {asked.folder}")


if __name__ == "__main__":
    with one_line_errors():
        main()
