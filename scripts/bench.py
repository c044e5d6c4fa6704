"""How fast is a network, how much of the machine does it use, and how much memory will it need?

    python scripts/bench.py                                    # DiT-S/2 beside its reference twin
    python scripts/bench.py net=dit_b_2 batch=4 net.depth=6    # any config of configs/net, any override of it
    python scripts/bench.py net=demo batch=32 frames=8 optim=adamw,muon      # optimizers beside one another
    python scripts/bench.py twin=wan                           # a published model (or all) beside diffusers' class
    python scripts/bench.py pipeline=wan                       # a published pipeline (or all), whole
    python scripts/bench.py net=s frames=8 height=32 width=32 text_tokens=64 per_frame=true
    python scripts/bench.py net=s batch=4 frames=8 shapes=true # clips of several shapes: padding, buckets, packing

Networks, twins and the machine's own matmul rate are measured in turn, in one process, so that a busy machine slows
them all down alike; printed are medians over the turns, and the quartiles in brackets. Settings, with pipeline= those
behind the empty line: `scripts/settings.py`.
"""

from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from dit.engine.blocks import compile_blocks
from dit.flops import count_flops_by_op
from dit.net.kernels import auto
from dit.net.text import reads_text
from dit.onednn import accelerate
from dit.rates import peak_rate
from dit.signals.builtin import BUILT_IN
from scripts import mixed
from scripts.clock import Subject, machine, make_subject, measure, spread, turn
from scripts.memory import Memory, estimate_memory, measured_peak, reset_peak, resident
from scripts.settings import PRECISIONS, Settings, WholeSettings, build, compose, parse, parse_whole, run
from scripts.twins.shape import Shape

TWINS = {"reference": "scripts.twins.dit_reference:DiT", "diffusers": "scripts.twins.dit_diffusers:DiffusersDiT"}


def main(arguments: list[str]) -> None:
    if any(each.startswith("pipeline=") for each in arguments):
        whole_settings = parse_whole(arguments)
        from scripts.twins import whole  # needs diffusers and transformers

        (whole.compare_all if whole_settings.pipeline == "all" else whole.compare)(whole_settings, arguments)
        return
    settings, overrides = parse(arguments)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.twin:
        from scripts.twins import compare  # needs diffusers

        (compare.compare_all if settings.twin == "all" else compare.compare)(arguments)
        return
    device = torch.device(settings.device)
    config = compose(settings, overrides)
    inputs = make_inputs(config, settings, device)
    x, t, cond = inputs

    print(f"command: python scripts/bench.py {' '.join(arguments)}")
    print(f"machine: {machine(device)}, torch {torch.__version__}, {date.today()}")
    print(f"settings: {settings}")
    if settings.shapes:
        net = build(config)
        if settings.compile:
            compile_blocks(net, "default")
        else:
            accelerate(net)
        subject = make_subject(settings.net, net, replace(settings, compile=False))
        plain = functools.partial(build, config, kernel="sdpa")
        mixed.compare(plain, subject, lambda own: make_inputs(config, own, device), settings)
        return
    memory = estimate_memory(lambda: build(config, kernel="sdpa"), inputs, settings.precision == "bf16")
    print(f"memory of a step, estimated: {memory}", flush=True)

    before = resident(device)
    reset_peak(device)
    net = build(config)
    if not settings.compile:
        accelerate(net)
    tokens = settings.batch * net.num_tokens(settings.frames, settings.height, settings.width)
    flops = count_flops_by_op(net, x.shape, t.shape, cond, backward=True)
    forward_flops = sum(count_flops_by_op(net, x.shape, t.shape, cond, backward=False).values())
    first, *others = settings.optim.split(",")
    ours = f"ours: {settings.net}"
    subjects = [make_subject(f"{ours}, {first}" if others else ours, net, settings, first)]
    for _ in range(2):
        turn(subjects[0], inputs, settings)
    print_peak(memory, measured_peak(device), before)
    print(
        f"work: {tokens} tokens, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters, "
        f"{forward_flops / 1e9:.4g} GFLOP forward, {sum(flops.values()) / 1e9:.4g} GFLOP a training step "
        f"({flops.get('bmm', 0) / 1e9:.4g} of them attention's own products)",
        flush=True,
    )

    for name in others:
        again = build(config)
        if not settings.compile:
            accelerate(again)
        subjects.append(make_subject(f"{ours}, {name}", again, settings, name))
    subjects += make_twins(config, settings)
    print(f"attention kernels that auto chose so far: {'; '.join(auto.chosen()) or 'none'}", flush=True)
    rates = measure(subjects, inputs, settings)
    report(subjects, rates, tokens, forward_flops, flops, stated_rate(settings))


def make_inputs(
    config: DictConfig, settings: Settings, device: torch.device
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x, t and what the network reads of `cond`: entries of signals as these declare them, and channels."""
    batch, frames = settings.batch, settings.frames
    x = torch.randn(batch, config.in_channels, frames, settings.height, settings.width, device=device)
    t = torch.rand(batch, frames if settings.per_frame else 1, device=device)
    with torch.device("meta"):
        reads = build(config, kernel="sdpa").reads
    sizes = {
        "text_tokens": settings.text_tokens,
        "text_width": config.text_width,
        "pooled_width": OmegaConf.select(config, "vectors.pooled.features") or config.text_width,
        "glyph_tokens": settings.text_tokens,
        "glyph_width": OmegaConf.select(config, "text.glyphs.features"),
    }
    cond = {
        key: fill(entry.of(batch, sizes), entry.dtype, device)
        for signal in BUILT_IN.values()
        for key, entry in signal.entries.items()
        if key in (*reads.required, *reads.optional)
    }
    if "guidance" in reads.required:  # the scale of networks that have learnt it; no built-in signal tells it
        cond["guidance"] = torch.ones(batch, device=device)
    for name, channels in config.concat_channels.items():
        if channels is not None:  # the network has none
            cond[name] = torch.zeros(batch, channels, frames, settings.height, settings.width, device=device)
    return x, t, cond


def fill(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Some values of an entry: noise, class 0, a rate of 24; of every other mask the last quarter is padding."""
    if dtype is torch.bool:
        lengths = torch.tensor([shape[1], -(-shape[1] * 3 // 4)], device=device).repeat(shape[0])[: shape[0]]
        return torch.arange(shape[1], device=device) < lengths[:, None]
    if dtype.is_floating_point and len(shape) > 1:
        return torch.randn(shape, device=device, dtype=dtype)
    return torch.full(shape, 24 if dtype.is_floating_point else 0, device=device, dtype=dtype)


def shape_of(config: DictConfig, settings: Settings) -> Shape | str:
    """The shape of a twin, or why there is none."""
    classes = OmegaConf.select(config, "vectors.label.num_classes")
    if settings.frames != 1 or config.patch[0] != 1 or config.patch[1] != config.patch[2]:
        return "the reference networks take one frame and square patches"
    if settings.height != settings.width:
        return "the reference networks take square images"
    if classes is None or reads_text(config.text):
        return "the reference networks take class labels and no text"
    return Shape(
        size=settings.height,
        patch=config.patch[1],
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        num_classes=classes,
    )


def make_twins(config: DictConfig, settings: Settings) -> list[Subject]:
    """The reference networks that can be built here; says why the others cannot."""
    if not settings.twins:
        return []
    shape = shape_of(config, settings)
    if isinstance(shape, str):
        print(f"no twins: {shape}")
        return []
    made = []
    for name, place in TWINS.items():
        module, _, attribute = place.partition(":")
        try:
            twin = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            print(f"twin {name}: {error.name} is not installed")
            continue
        made.append(make_subject(f"twin: {name}", twin(shape), settings))
    return made


def stated_rate(settings: Settings) -> float | None:
    """The data sheet's FLOP/s of the device in this precision, or None: a CPU, an unknown GPU, float32."""
    device = torch.device(settings.device)
    if device.type != "cuda" or PRECISIONS[settings.precision] is torch.float32:
        return None
    return peak_rate(torch.cuda.get_device_name(device))


def report(
    subjects: list[Subject],
    rates: list[float],
    tokens: int,
    forward_flops: int,
    flops: dict[str, int],
    stated: float | None = None,
) -> None:
    """Prints the table. Shares are of the matmul rate of the same turn, and of `stated` FLOP/s where there are any."""
    total = sum(flops.values())
    linear = total - flops.get("bmm", 0)
    print(f"matmul: {spread([rate / 1e9 for rate in rates])} GFLOP/s\n")
    columns = ("network", "forward ms", "forward + backward ms", "step ms", "optimizer", "tokens/s", "GFLOP/s", "share")
    print(f"| {' | '.join(columns)} | share, linear only |\n|{' --- |' * (len(columns) + 1)}")
    for subject in subjects:
        pairs = list(zip(subject.backward, rates, strict=True))
        cells = [
            subject.name,
            *(spread([1e3 * s for s in times]) for times in (subject.forward, subject.backward, subject.step)),
            spread([u / s for u, s in zip(subject.update(), subject.step, strict=True)], ".3f"),
            spread([tokens / s for s in subject.step], ".0f"),
            spread([total / s / 1e9 for s in subject.backward]),
            spread([total / s / rate for s, rate in pairs], ".3f"),
            spread([linear / s / rate for s, rate in pairs], ".3f"),
        ]
        print(f"| {' | '.join(cells)} |")
    if stated is not None:
        mfu = [f"{each.name} {spread([total / s / stated for s in each.backward], '.3f')}" for each in subjects]
        print(f"\nMFU, the share of the data sheet's {stated / 1e12:.0f} TFLOP/s: {'; '.join(mfu)}")
    print(
        "\nmedian [quartiles]. forward: no gradients, "
        f"{forward_flops / 1e9:.4g} GFLOP. GFLOP/s and shares: of forward + backward. optimizer: its share of a step.\n"
        "share: of the matmul rate measured in the same turn; `linear only` leaves attention's own products uncounted."
    )


def print_peak(memory: Memory, peak: int | None, before: int | None) -> None:
    if peak is None or before is None:
        print("memory measured: this system does not tell")
        return
    print(f"memory measured: {(peak - before) / 2**20:.0f} MiB above the start ({memory.peak / 2**20:.0f} estimated)")


if __name__ == "__main__":
    run(main, __doc__, Settings, WholeSettings)
