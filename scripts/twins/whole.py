"""A whole published pipeline of ours beside diffusers' own: equal weights, prompts, steps and noise, in turn.

Both make the same video from a folder that diffusers saved: the network has a few blocks of a published size at full
width, the text encoder and the codec are tiny, so that the network is most of the work. Nothing is timed before both
videos are found equal. Prompts are encoded anew in every turn by encoders that stay in memory, as diffusers' do.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import date
from os import getloadavg
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from dit.engine.blocks import compile_blocks
from dit.rates import synchronize
from dit.sampling.guidance import AsTrained
from dit.sampling.pipeline import Pipeline
from scripts.clock import machine, spread
from scripts.settings import WholeSettings
from scripts.twins.parts import randomise
from scripts.twins.pipelines import TWINS, Asked, Twin, grey_levels_apart, make, noise_for, ours, relative, run

NETWORKS = ("transformer", "transformer_2")  # of a pipeline of diffusers
PARTS = ("text encoder", "network", "codec")
NEAR = {"fp32": 1e-4, "bf16": 0.2}  # the largest difference of latents that is the same video
LARGEST = 64  # times as high and wide as the miniature


@dataclass(frozen=True)
class Size:
    """A published network's size: settings of diffusers' class; of `scaled` those of a clip, which grow with it."""

    settings: Mapping[str, Any]
    scaled: Sequence[str] = ()


def heads(number: int, size: int, **more: Any) -> dict[str, Any]:
    return {"num_attention_heads": number, "attention_head_dim": size, **more}


# Class of diffusers -> the smallest size that was published. Depth is a setting.
SIZES = {
    "WanTransformer3DModel": Size(heads(12, 128, ffn_dim=8960, freq_dim=256)),
    "SkyReelsV2Transformer3DModel": Size(heads(12, 128, ffn_dim=8960, freq_dim=256)),
    "LTXVideoTransformer3DModel": Size(heads(32, 64, cross_attention_dim=2048)),
    "CogVideoXTransformer3DModel": Size(heads(30, 64, time_embed_dim=512), ("sample_width", "sample_height")),
    "HunyuanVideoTransformer3DModel": Size(heads(24, 128, rope_axes_dim=(16, 56, 56))),
    "MochiTransformer3DModel": Size(heads(24, 128, pooled_projection_dim=1536, time_embed_dim=256)),
    "AllegroTransformer3DModel": Size(heads(24, 96, cross_attention_dim=2304), ("sample_width", "sample_height")),
    "CosmosTransformer3DModel": Size(heads(16, 128, adaln_lora_dim=256, mlp_ratio=4.0, max_size=(8, 240, 240))),
    "LatteTransformer3DModel": Size(heads(16, 72, cross_attention_dim=1152), ("sample_size",)),
    "DiTTransformer2DModel": Size(heads(16, 72), ("sample_size",)),
}


def compare_all(settings: WholeSettings, arguments: Sequence[str]) -> None:
    """Every pipeline after another, and a table of their ratios. One that fails does not cost the others; SystemExit at
    the end."""
    rows, failed = [], []
    for name in TWINS:
        told = [f"pipeline={name}" if each.startswith("pipeline=") else each for each in arguments]
        try:
            rows.append((name, compare(replace(settings, pipeline=name), told)))
        except (Exception, SystemExit):
            traceback.print_exc()
            failed.append(name)
        print(flush=True)
    print("| ours / diffusers | wall-clock time | processor time |\n| --- | --- | --- |")
    for name, (wall, processor) in rows:
        print(f"| {name} | {wall} | {processor} |")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def compare(settings: WholeSettings, arguments: Sequence[str]) -> tuple[str, str]:
    """Prints how far the two videos are apart, then times and shares. Returns ours / diffusers in words: of wall-clock
    and of processor time. SystemExit, before anything is timed, if the videos are not the same."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    print(f"command: python scripts/bench.py {' '.join(arguments)}")
    print(f"machine: {machine(device)}, torch {torch.__version__}, diffusers {diffusers.__version__}, {date.today()}")
    print(f"settings: {settings}", flush=True)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        twin, theirs = enlarged(settings, Path(folder))
        asked = replace(twin.asked, num_steps=settings.steps, scale=settings.scale)
        asked = asked.only(0) if twin.alone else asked  # diffusers' class takes one prompt, or is asked one by one
        parts = {} if settings.precision == "fp32" else {"codec": {"dtype": "bfloat16"}}
        mine = ours(twin, folder, asked, settings.device, parts=parts, offload_text=False)
        theirs.to(device)
        noise = noise_for(mine, len(asked.seeds))
        if settings.compile:
            for net in networks(mine):
                compile_blocks(net, "default")
            for net in networks(theirs):
                net.compile_repeated_blocks()
        check_same(mine, theirs, twin, asked, noise, settings)
        subjects = subjects_of(mine, theirs, twin, asked, noise, device)
        for index in range(settings.warmup + settings.repeats):
            for subject in subjects[:: 1 if index % 2 else -1]:
                subject.turn(index >= settings.warmup)
    return report(subjects)


def enlarged(settings: WholeSettings, folder: Path) -> tuple[Twin, Any]:
    """The twin in the size of the benchmark, and its pipeline of diffusers, which is saved in `folder`."""
    twin = TWINS[settings.pipeline]
    theirs = twin.build()
    theirs.set_progress_bar_config(disable=True)
    small = {name: getattr(theirs, name, None) for name in NETWORKS}
    unknown = [type(net).__name__ for net in small.values() if net is not None and type(net).__name__ not in SIZES]
    if unknown:
        raise ValueError(f"pipeline={settings.pipeline}: no published size is noted of {unknown[0]} in {__file__}")
    frames, height, width = twin.shape
    times = 1
    with tempfile.TemporaryDirectory() as miniature:
        theirs.save_pretrained(miniature)
        mine = ours(twin, miniature, twin.asked)
        while tokens(mine.changed(height=times * height, width=times * width)) < settings.tokens and times < LARGEST:
            times += 1
    for number, (name, net) in enumerate(small.items()):
        if net is not None:
            made = type(net).from_config(settings_in_size(net, times, settings.depth))
            theirs.register_modules(**{name: randomise(made, number)})
    if settings.precision == "bf16":
        theirs.to(torch.bfloat16)
    theirs.save_pretrained(folder)
    asks, task = (in_size(each, times) for each in (twin.asks, twin.task))
    twin = replace(twin, shape=(frames, times * height, times * width), asks=asks, task=task)
    kind, size_of_clip = type(small["transformer"]).__name__, f"{frames} frames of {times * height}x{times * width}"
    count = tokens(ours(twin, folder, twin.asked))
    print(f"network: {kind}, {weights(networks(theirs)):.0f} M parameters; clip: {size_of_clip}, {count} video tokens")
    return twin, theirs


def settings_in_size(net: Any, times: int, depth: int) -> dict[str, Any]:
    """Of a network of diffusers' like `net` in its published size, for clips as many times higher and wider."""
    size, config = SIZES[type(net).__name__], dict(net.config)
    grown = {key: times * config[key] for key in size.scaled}
    known = {**config, **size.settings}
    if config.get("added_kv_proj_dim"):  # of a picture's keys: as wide as the network itself
        grown["added_kv_proj_dim"] = known["num_attention_heads"] * known["attention_head_dim"]
    if config.get("ofs_embed_dim"):
        grown["ofs_embed_dim"] = known["time_embed_dim"]
    deep = {key: depth for key in ("num_layers", "num_single_layers") if key in config}
    return {**known, **grown, **deep}


def in_size(thing: Any, times: int) -> Any:
    """The same with all pictures in it as many times higher and wider."""
    if isinstance(thing, Image.Image):
        return thing.resize((times * thing.width, times * thing.height), Image.Resampling.NEAREST)
    if isinstance(thing, Mapping):
        return {key: in_size(each, times) for key, each in thing.items()}
    if isinstance(thing, (list, tuple)):
        return type(thing)(in_size(each, times) for each in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        return replace(thing, **{each.name: in_size(getattr(thing, each.name), times) for each in fields(thing)})
    return thing


def tokens(pipeline: Pipeline) -> int:
    """Video tokens of a sample."""
    net: Any = pipeline.placement.net
    return int(net.num_tokens(*pipeline.canvas().latent_shape))


def weights(nets: Sequence[nn.Module]) -> float:
    """Millions of them."""
    return sum(each.numel() for net in nets for each in net.parameters()) / 1e6


def networks(pipeline: Any) -> list[Any]:
    """The one or two of a pipeline of ours or of diffusers."""
    if isinstance(pipeline, Pipeline):
        net: Any = pipeline.net
        return list(net.networks) if hasattr(net, "networks") else [net]
    return [net for name in NETWORKS if (net := getattr(pipeline, name, None)) is not None]


def check_same(mine: Pipeline, theirs: Any, twin: Twin, asked: Asked, noise: Tensor, settings: WholeSettings) -> None:
    """Prints how far the two videos are apart; SystemExit if they are two."""
    with left_out_codec(mine, twin):
        made = make(mine, twin, asked, noise)
    apart = relative(made.latents, run(theirs, twin, noise, asked, "latent").float().cpu())
    said = f"largest difference: latents {apart:.1e} of the largest"
    if twin.decodes:
        said += f", pixels {grey_levels_apart(mine, theirs, twin, made, noise, asked):.1e} grey levels"
    print(said, flush=True)
    if not apart < NEAR[settings.precision]:
        raise SystemExit(f"pipeline={settings.pipeline}: these are not the same video, so nothing is timed")


@contextmanager
def left_out_codec(mine: Pipeline, twin: Twin) -> Iterator[None]:
    """Without decoding, where diffusers' codec takes no clip of this size."""
    codec: Any = mine.codec
    with patch.object(codec, "decode", lambda latents: latents[:, :3]) if not twin.decodes else ExitStack():
        yield


@dataclass
class Subject:
    """One pipeline under the clock. In seconds, one entry a turn: wall, processor; and of each part of it, by name."""

    name: str
    work: Callable[[], Any]
    parts: Sequence[tuple[str, Any, str]]  # name, an object, and its method in which that part is done
    device: torch.device
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    took: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})

    def turn(self, counts: bool) -> None:
        """Makes the video once."""
        took = dict.fromkeys(PARTS, 0.0)
        with ExitStack() as stack:
            for name, owner, method in self.parts:
                stack.enter_context(patch.object(owner, method, self.timed(getattr(owner, method), name, took)))
            synchronize(self.device)
            wall, processor = time.perf_counter(), time.process_time()
            self.work()
            synchronize(self.device)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
        if counts:
            self.wall.append(wall)
            self.processor.append(processor)
            for name, seconds in took.items():
                self.took[name].append(seconds)

    def timed(self, method: Callable[..., Any], name: str, took: dict[str, float]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            synchronize(self.device)
            start = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                synchronize(self.device)
                took[name] += time.perf_counter() - start

        return call

    def shares(self) -> list[str]:
        """Of the wall-clock time of all turns: each part, and the rest."""
        whole = sum(self.wall)
        found = [sum(self.took[name]) / whole for name in PARTS]
        return [f"{100 * each:.1f} %" for each in (*found, 1 - sum(found))]


def subjects_of(
    mine: Pipeline, theirs: Any, twin: Twin, asked: Asked, noise: Tensor, device: torch.device
) -> list[Subject]:
    """Ours, as it is and, where two passes are computed together, in turn; then diffusers'."""

    def our_own(name: str, pipeline: Pipeline) -> Subject:
        def work() -> None:
            with left_out_codec(pipeline, twin):
                make(pipeline, twin, asked, noise)

        text = [("text encoder", pipeline.text, "forward")] if pipeline.text is not None else []
        nets = [("network", net, "forward") for net in networks(pipeline)]
        codec = [("codec", pipeline.codec, "decode")] if twin.decodes else []
        return Subject(name, work, [*text, *nets, *codec], device)

    found = [our_own("ours", mine)]
    guidance: Any = mine.settings.guidance
    if getattr(guidance, "together", False) and guidance.scale != 1:
        found.append(our_own("ours, passes in turn", mine.changed(guidance=AsTrained(None, None, None, False))))
    output = "pt" if twin.decodes else "latent"
    encoder = [("text encoder", theirs, "encode_prompt")] if hasattr(theirs, "encode_prompt") else []
    nets = [("network", net, "forward") for net in networks(theirs)]
    parts = [*encoder, *nets, ("codec", theirs.vae, "decode")]
    kind = type(theirs).__name__
    return [*found, Subject(f"diffusers: {kind}", lambda: run(theirs, twin, noise, asked, output), parts, device)]


def report(subjects: Sequence[Subject]) -> tuple[str, str]:
    """Prints the table; returns the ratios of the first to the last, in words."""
    print(f"load of the machine at the end: {getloadavg()[0]:.1f}\n")
    print("| pipeline | seconds | processor seconds | text encoder | network | codec | rest |\n|" + " --- |" * 7)
    for each in subjects:
        cells = [each.name, spread(each.wall, ".2f"), spread(each.processor, ".2f"), *each.shares()]
        print(f"| {' | '.join(cells)} |")
    *mine, other = subjects
    ratios = []
    for each in mine:
        found = (
            spread([a / b for a, b in zip(getattr(each, name), getattr(other, name), strict=True)], ".3f")
            for name in ("wall", "processor")
        )
        ratios.append(tuple(found))
        print(f"| {each.name} / diffusers, turn by turn | {ratios[-1][0]} | {ratios[-1][1]} | | | | |")
    print("\nmedian [quartiles]; shares of the wall-clock time of all turns")
    return ratios[0]
