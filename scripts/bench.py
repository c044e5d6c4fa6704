"""How fast is a network, how much of the machine does it use, and how much memory will it need?

    python scripts/bench.py                                    # DiT-S/2 beside its reference twin
    python scripts/bench.py net=dit_b_2 batch=4 net.depth=6    # any config of configs/net, any override of it
    python scripts/bench.py twin=wan                           # a published model beside diffusers' own class
    python scripts/bench.py net=s frames=8 height=32 width=32 text_tokens=64 per_frame=true

Networks, twins and the machine's own matmul rate are measured in turn, in one process, so that a busy machine slows
them all down alike; printed are medians over the turns, and the quartiles in brackets. Settings are below (`Settings`).
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dit.entry import CONFIGS, one_line_errors
from dit.net.flops import count_flops_by_op, measured_matmul_rate, synchronize
from scripts.memory import Memory, estimate_memory, measured_peak, reset_peak, resident
from scripts.twins.shape import Shape

TWINS = {"reference": "scripts.twins.dit_reference:DiT", "diffusers": "scripts.twins.dit_diffusers:DiffusersDiT"}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """`name=value` on the command line; every other name must begin with `net`."""

    net: str = "dit_s_2"  # a config of configs/net
    batch: int = 8
    frames: int = 1  # latent frames
    height: int = 32  # latents
    width: int = 32  # latents
    text_tokens: int = 64  # for a network that reads text; a quarter of the tokens of every other sample is padding
    per_frame: bool = False  # a noise level for each latent frame
    precision: str = "fp32"  # or bf16: autocast, fp32 weights
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    compile: bool = False
    twin: str = ""  # a published model: ours and diffusers' class with equal weights, a few blocks at full width
    twins: bool = True  # measure the reference networks too, where the shapes allow
    repeats: int = 10  # turns that count
    warmup: int = 2  # turns that do not
    threads: int = 0  # 0: torch's own choice


@dataclass
class Subject:
    """One network under the clock, with its times in seconds, one for each turn."""

    name: str
    net: nn.Module
    optimizer: torch.optim.Optimizer
    forward: list[float]
    backward: list[float]
    step: list[float]


def parse(arguments: list[str]) -> tuple[Settings, list[str]]:
    """`name=value` arguments -> settings and Hydra overrides of the network."""
    types = {field.name: type(field.default) for field in fields(Settings)}
    given: dict[str, Any] = {}
    overrides: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"'{argument}' is not name=value; for example: net=dit_s_2 batch=8 net.depth=4")
        if name.lstrip("+~").startswith(("net.", "net/")):
            overrides.append(argument)
        elif name in types:
            given[name] = read(name, value, types[name])
        else:
            raise ValueError(f"unknown setting '{name}'; there are net.*, net/* and {', '.join(types)}")
    if "twin" in given:
        example = example_named(given["twin"])
        # A user's own preset is measured as it is; sizes and overrides follow what is typed.
        overrides = ([] if "net" in given else [*example.overrides]) + overrides
        given = {**example.settings(), **given}
    settings = Settings(**given)
    if settings.precision not in PRECISIONS:
        raise ValueError(f"precision={settings.precision} is none of {', '.join(PRECISIONS)}")
    if not (CONFIGS / "net" / f"{settings.net}.yaml").is_file():
        known = sorted(path.stem for path in (CONFIGS / "net").glob("*.yaml"))
        raise ValueError(f"net={settings.net} is not in configs/net; there are {', '.join(known)}")
    return settings, overrides


def example_named(name: str) -> Any:
    """What `twin=name` measures. Raises ValueError for a name that is not there, and without diffusers."""
    try:
        from scripts.twins.published import EXAMPLES
    except ModuleNotFoundError as error:
        raise ValueError(f"twin={name} needs {error.name}: pip install -r requirements-dev.txt") from None
    if name not in EXAMPLES:
        raise ValueError(f"twin={name} is not a published model that is known; there are {', '.join(EXAMPLES)}")
    return EXAMPLES[name]


def read(name: str, value: str, kind: type) -> Any:
    """The value of one setting. Counts are at least 1, but for `warmup` and `threads`."""
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{name}={value} must be true or false")
        return value.lower() == "true"
    if kind is int:
        least = 0 if name in ("warmup", "threads") else 1
        if not value.isdigit() or int(value) < least:
            raise ValueError(f"{name}={value} must be a whole number of at least {least}")
        return int(value)
    return value


def compose(settings: Settings, overrides: list[str]) -> DictConfig:
    """The network's config."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(f"net/{settings.net}", overrides=overrides).net


def make_inputs(
    config: DictConfig, settings: Settings, device: torch.device
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x, t and every key of `cond` that the network may ask for."""
    batch, frames = settings.batch, settings.frames
    x = torch.randn(batch, config.in_channels, frames, settings.height, settings.width, device=device)
    t = torch.rand(batch, frames if settings.per_frame else 1, device=device)
    lengths = torch.tensor([settings.text_tokens, -(-settings.text_tokens * 3 // 4)], device=device).repeat(batch)[
        :batch
    ]
    cond = {
        "text": torch.randn(batch, settings.text_tokens, config.text_width, device=device),
        "text_mask": torch.arange(settings.text_tokens, device=device) < lengths[:, None],
        "pooled": torch.randn(batch, config.text_width, device=device),
        "fps": torch.full((batch,), 24.0, device=device),
        **{
            name: torch.zeros(batch, channels, frames, settings.height, settings.width, device=device)
            for name, channels in config.concat_channels.items()
            if channels is not None  # the network has none
        },
    }
    classes = OmegaConf.select(config, "vectors.label.num_classes")
    if classes is not None:
        cond["label"] = torch.randint(0, classes, (batch,), device=device)
    return x, t, cond


def shape_of(config: DictConfig, settings: Settings) -> Shape | str:
    """The shape of a twin, or why there is none."""
    classes = OmegaConf.select(config, "vectors.label.num_classes")
    if settings.frames != 1 or config.patch[0] != 1 or config.patch[1] != config.patch[2]:
        return "the reference networks take one frame and square patches"
    if settings.height != settings.width:
        return "the reference networks take square images"
    if classes is None or config.text is not None:
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


def make_subject(name: str, net: nn.Module, settings: Settings) -> Subject:
    """A network with random weights, and an optimizer."""
    net = with_weights(net, settings)
    return subject_of(name, net, settings, torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True))


def with_weights(net: nn.Module, settings: Settings) -> nn.Module:
    """A network with weights that matter: zero-initialised gates would let kernels see zeros only."""
    net = net.to(settings.device).train()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.02)
    return net


def subject_of(name: str, net: nn.Module, settings: Settings, optimizer: torch.optim.Optimizer) -> Subject:
    """A network as it is."""
    runnable = torch.compile(net) if settings.compile else net
    return Subject(name, runnable, optimizer, [], [], [])  # type: ignore[arg-type]


def turn(subject: Subject, inputs: tuple[Any, ...], settings: Settings) -> None:
    """One forward pass without gradients and one training step, both timed."""
    device = torch.device(settings.device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    with torch.no_grad(), autocast:
        subject.forward.append(seconds(lambda: subject.net(*inputs), device))

    def backward() -> None:
        with autocast:
            out = subject.net(*inputs)
        out.float().square().mean().backward()

    def update() -> None:
        subject.optimizer.step()
        subject.optimizer.zero_grad(set_to_none=True)

    subject.backward.append(seconds(backward, device))
    subject.step.append(subject.backward[-1] + seconds(update, device))


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock seconds of `work`, with the device's queue empty before and after."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def spread(values: list[float], form: str = ".1f") -> str:
    """`median [lower quartile, upper quartile]`."""
    low, middle, high = (
        torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    )
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def main(arguments: list[str]) -> None:
    settings, overrides = parse(arguments)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = torch.device(settings.device)
    config = compose(settings, overrides)
    if settings.twin:
        compare(arguments, settings, config)
        return
    inputs = make_inputs(config, settings, device)
    x, t, cond = inputs

    print(f"command: python scripts/bench.py {' '.join(arguments)}")
    print(f"machine: {machine(device)}, torch {torch.__version__}, {date.today()}")
    print(f"settings: {settings}")
    memory = estimate_memory(lambda: build(config, kernel="sdpa"), inputs, settings.precision == "bf16")
    print(f"memory of a step, estimated: {memory}", flush=True)

    before = resident(device)
    reset_peak(device)
    net = build(config)
    tokens = settings.batch * net.num_tokens(settings.frames, settings.height, settings.width)
    cond_shapes = {key: value.shape for key, value in cond.items()}
    flops = count_flops_by_op(net, x.shape, t.shape, cond_shapes, backward=True)
    forward_flops = sum(count_flops_by_op(net, x.shape, t.shape, cond_shapes, backward=False).values())
    subjects = [make_subject(f"ours: {settings.net}", net, settings)]
    for _ in range(2):
        turn(subjects[0], inputs, settings)
    print_peak(memory, measured_peak(device), before)
    print(
        f"work: {tokens} tokens, {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters, "
        f"{forward_flops / 1e9:.4g} GFLOP forward, {sum(flops.values()) / 1e9:.4g} GFLOP a training step "
        f"({flops.get('bmm', 0) / 1e9:.4g} of them attention's own products)",
        flush=True,
    )

    subjects += make_twins(config, settings)
    rates = measure(subjects, inputs, settings)
    report(subjects, rates, tokens, forward_flops, flops)


def compare(arguments: list[str], settings: Settings, config: DictConfig) -> None:
    """Ours and diffusers' own class: equal weights, equal arguments, in turn."""
    from scripts.twins import published

    print(f"command: python scripts/bench.py {' '.join(arguments)}")
    print(f"machine: {machine(torch.device(settings.device))}, torch {torch.__version__}, {date.today()}")
    print(f"settings: {settings}")
    net = with_weights(build(config), settings)
    theirs = published.reference(net)
    size = (settings.frames, settings.height, settings.width)
    given = published.arguments_for(net, settings.batch, size, settings.text_tokens, settings.device)
    # Weights stay equal, and no optimizer's state stands beside two large networks.
    still = [torch.optim.SGD(part.parameters(), lr=0.0) for part in (net, theirs)]
    subjects = [
        subject_of(f"ours: {settings.net}", published.Ours(net), settings, still[0]),
        subject_of(f"diffusers: {type(theirs).__name__}", published.Theirs(theirs), settings, still[1]),
    ]
    with torch.no_grad():
        ours, wanted = (subject.net(given) for subject in subjects)
    counts = f"{parameters(net):,} (ours) and {parameters(theirs):,}"
    print(f"tokens: {settings.batch * net.num_tokens(*size)}, parameters: {counts}")
    apart = ((ours - wanted).abs().max() / wanted.abs().max()).item()
    print(f"largest difference of the outputs: {apart:.1e} relative")
    rates = measure(subjects, (given,), settings)
    print(f"matmul: {spread([rate / 1e9 for rate in rates])} GFLOP/s\n")
    print("| network | forward ms | forward + backward ms |\n| --- | --- | --- |")
    for subject in subjects:
        times = [spread([1e3 * s for s in column]) for column in (subject.forward, subject.backward)]
        print(f"| {subject.name} | {' | '.join(times)} |")
    mine, other = subjects
    ratios = [
        spread([a / b for a, b in zip(getattr(mine, name), getattr(other, name), strict=True)], ".3f")
        for name in ("forward", "backward")
    ]
    print(f"| ours / diffusers, turn by turn | {' | '.join(ratios)} |\n\nmedian [quartiles]")
    if settings.device == "cpu":
        print(f"diffusers spends {product_share(other.net, given):.0%} of a forward pass in products of linear layers")


def product_share(net: nn.Module, given: Any) -> float:
    """The share of a forward pass on the CPU that goes into products of linear layers, which both networks need."""
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile,
    ):
        net(given)
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    return sum(times.get(f"aten::{name}", 0.0) for name in ("addmm", "mm")) / sum(times.values())


def parameters(net: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in net.parameters())


def build(config: DictConfig, kernel: str | None = None) -> nn.Module:
    """The network; `kernel` names another config of configs/net/kernel."""
    if kernel is not None:
        config = OmegaConf.merge(config, {})  # a copy
        config.kernel = OmegaConf.load(CONFIGS / "net" / "kernel" / f"{kernel}.yaml")
    return hydra.utils.instantiate(config)


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


def measure(subjects: list[Subject], inputs: tuple[Any, ...], settings: Settings) -> list[float]:
    """Times every subject in turn; the machine's matmul rate in FLOP/s at each turn that counts."""
    dtype, rates = PRECISIONS[settings.precision], []
    for index in range(settings.warmup + settings.repeats):
        # The order turns around, so that nobody always follows the one that heats the caches.
        for subject in subjects[:: 1 if index % 2 else -1]:
            turn(subject, inputs, settings)
        rates.append(measured_matmul_rate(settings.device, dtype))
        if sys.stderr.isatty():
            print(f"\rturn {index + 1}/{settings.warmup + settings.repeats}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    for subject in subjects:
        for times in (subject.forward, subject.backward, subject.step):
            del times[: -settings.repeats]
    return rates[-settings.repeats :]


def report(subjects: list[Subject], rates: list[float], tokens: int, forward_flops: int, flops: dict[str, int]) -> None:
    """Prints the table. Shares are of the matmul rate of the same turn."""
    total = sum(flops.values())
    linear = total - flops.get("bmm", 0)
    print(f"matmul: {spread([rate / 1e9 for rate in rates])} GFLOP/s\n")
    print(
        "| network | forward ms | forward + backward ms | step ms | tokens/s | GFLOP/s | share | share, linear only |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for subject in subjects:
        pairs = list(zip(subject.backward, rates, strict=True))
        cells = [
            subject.name,
            *(spread([1e3 * s for s in times]) for times in (subject.forward, subject.backward, subject.step)),
            spread([tokens / s for s in subject.step], ".0f"),
            spread([total / s / 1e9 for s in subject.backward]),
            spread([total / s / rate for s, rate in pairs], ".3f"),
            spread([linear / s / rate for s, rate in pairs], ".3f"),
        ]
        print(f"| {' | '.join(cells)} |")
    print(
        "\nmedian [quartiles]. forward: no gradients, "
        f"{forward_flops / 1e9:.4g} GFLOP. GFLOP/s and shares: of forward + backward. step: with fused AdamW.\n"
        "share: of the matmul rate measured in the same turn; `linear only` leaves attention's own products uncounted."
    )


def print_peak(memory: Memory, peak: int | None, before: int | None) -> None:
    if peak is None or before is None:
        print("memory measured: this system does not tell")
        return
    print(f"memory measured: {(peak - before) / 2**20:.0f} MiB above the start ({memory.peak / 2**20:.0f} estimated)")


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, "\n".join(f"  {field.name}={field.default}" for field in fields(Settings)), sep="\n")
    else:
        with one_line_errors():
            main(sys.argv[1:])
