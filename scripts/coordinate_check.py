"""Measures how the change of activations in the first steps depends on the width, with and without net/init=mup.

    python scripts/coordinate_check.py experiment=demo widths=48,96,192
    python scripts/coordinate_check.py experiment=demo optim=adamw optim.lr=1e-3 steps=5 seeds=3 out=check.svg

At each width the network of the config is trained for some steps on one batch of noise with a square loss, with heads
of one size. The table has the slope of log change against log width with its 95 % interval, for each block and the
output: about 0 where settings carry over from one width to another. The base of mup is the smallest width. A line says
what each width came to as it is done. All other arguments are overrides of train.py; those of net.init are of the
first column alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from omegaconf import OmegaConf

from dit.config.build import build
from dit.engine.config import Config
from dit.engine.coordinate_check import OUTPUT, changes, slopes
from dit.entry import one_line_errors
from dit.entry.command import composed
from dit.report.figures import COLOURS, HEIGHT, WIDTH, save, styled
from dit.statistics import Estimate
from scripts.arguments import parse, usage
from scripts.bench import make_inputs
from scripts.settings import Settings

SMALLEST_HEAD = 8  # channels
Found = dict[int, list[dict[str, float]]]


@dataclass(frozen=True)
class Asked:
    widths: str = "48,96,192"  # at least three
    steps: int = 5  # of training
    seeds: int = 2  # first weights at each width
    batch: int = 2  # clips
    frames: int = 2  # latent frames of each
    size: int = 16  # latents, height and width
    out: str | None = None  # an SVG of the changes


def main(arguments: list[str]) -> None:
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(usage(__file__, __doc__))
        return
    given, overrides = parse(Asked, arguments, "widths=48,96,192")
    asked = Asked(**given)
    widths = read_widths(asked.widths)
    for name in ("steps", "seeds", "batch", "frames", "size"):
        if getattr(asked, name) < 1:
            raise ValueError(f"{name}={getattr(asked, name)} must be at least 1")
    if asked.out is not None and not asked.out.endswith(".svg"):
        raise ValueError(f"out={asked.out} must end in .svg")
    net = composed("train", overrides, Config)["net"]
    head = math.gcd(net["width"] // net["heads"], *widths)
    if head < SMALLEST_HEAD:
        raise ValueError(
            f"widths={asked.widths} divide into heads of {head} channels each, and {SMALLEST_HEAD} are needed: take"
            " multiples of one number, as 48,96,192"
        )
    without_init = [each for each in overrides if not each.startswith(("net/init=", "net.init."))]
    base = ["net/init=mup", f"net.init.base_width={widths[0]}", f"net.init.base_heads={widths[0] // head}"]
    found: dict[str, Found] = {}
    for name, own in (("as configured", overrides), ("mup", [*without_init, *base])):
        found[name] = {}
        for width in widths:
            sized = composed("train", [*own, f"net.width={width}", f"net.heads={width // head}"], Config)
            found[name][width] = [one(sized, asked, seed) for seed in range(asked.seeds)]
            mean = sum(each[OUTPUT] for each in found[name][width]) / asked.seeds
            print(f"{name}, width {width}: the output has changed by {mean:.3g}", flush=True)
    fitted = {name: slopes(each) for name, each in found.items()}
    print()
    print(table(fitted, widths, head, asked.steps))
    if asked.out is not None:
        draw(Path(asked.out), found)
        print(asked.out)


def read_widths(said: str) -> list[int]:
    """ValueError for what is no list of at least three widths."""
    try:
        widths = sorted({int(each) for each in said.strip("[]").split(",")})
    except ValueError:
        raise ValueError(f"widths={said} must be whole numbers, as in widths=48,96,192") from None
    if len(widths) < 3 or widths[0] < 1:
        raise ValueError(f"widths={said} must be at least three different widths above 0")
    return widths


def one(config: Mapping[str, Any], asked: Asked, seed: int) -> dict[str, float]:
    """The changes of one network. config: of train.py. The batch is the same at every width and seed."""
    settings = Settings(batch=asked.batch, frames=asked.frames, height=asked.size, width=asked.size, device="cpu")
    torch.manual_seed(0)
    inputs = make_inputs(OmegaConf.create(config["net"]), settings, torch.device("cpu"))
    target = torch.randn(asked.batch, config["net"]["out_channels"], *inputs[0].shape[2:])
    torch.manual_seed(seed)
    return changes(build(config["net"]), build(config["optim"]), inputs, target, asked.steps)


def table(fitted: Mapping[str, Mapping[str, Estimate]], widths: Sequence[int], head: int, steps: int) -> str:
    lines = [
        f"slope of log change against log width after {steps} steps; widths {', '.join(map(str, widths))}, {head}"
        " channels a head; 95 % intervals",
        "",
        "| activation | " + " | ".join(fitted) + " |",
        "| --- |" + " --- |" * len(fitted),
    ]
    for name in next(iter(fitted.values())):
        cells = (each[name] for each in fitted.values())
        lines.append(
            f"| {name} | " + " | ".join(f"{e.mean:+.2f} ({e.low:+.2f} to {e.high:+.2f})" for e in cells) + " |"
        )
    return "\n".join(lines)


def draw(path: Path, found: Mapping[str, Found]) -> None:
    """Mean change against width, both on logarithmic axes, a panel for each parametrisation."""
    with styled(2 * WIDTH, HEIGHT) as figure:
        for panel, (title, by_width) in zip(figure.subplots(1, 2, sharey=True), found.items(), strict=True):
            for place, name in enumerate(next(iter(by_width.values()))[0]):
                means = [sum(each[name] for each in seeds) / len(seeds) for seeds in by_width.values()]
                panel.plot([*by_width], means, "o-", color=COLOURS[place % len(COLOURS)], label=name, markersize=2.5)
            panel.set(xscale="log", yscale="log", xlabel="width", title=title)
        panel.legend()
        figure.axes[0].set_ylabel("RMS of the change")
        save(figure, path)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
