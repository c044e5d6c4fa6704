"""What works on this machine, what does not, and what to do about it.

    python scripts/doctor.py

Nothing is believed because it imports: attention kernels run forward and backward, decoders decode a clip that is made
on the spot. Exit code 0 unless something that is needed is broken.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - before decord: the other way round can crash (decord#251, decord#293)

from data.on_disk import on_disk  # noqa: E402 - these two need nothing that may be missing
from dit.streams import leave_unheard  # noqa: E402

OK, NOTE, BROKEN = "ok", "note", "BROKEN"
GIB = 2**30

# Packages of requirements.txt that a run can do without, and what is lost. All others are needed.
DISPENSABLE = {
    "xformers": "attention falls back to torch's own",
    "decord2": "clips are checked without a second opinion",
    "wandb": "logger=wandb is not available",
    "tensorboard": "logger=tensorboard is not available",
    "pyarrow": "manifests in Parquet cannot be read",
}
OPTIONAL = {
    "diffusers": "pretrained video autoencoders and published weights",
    "transformers": "pretrained text encoders",
    "torchcodec": "a third video decoder; version 0.10 is for torch 2.10, and it needs the system's FFmpeg",
}
NEEDED_DISK, NEEDED_MEMORY, NEEDED_SHARED = 2 * GIB, 4 * GIB, 1 * GIB  # of `make demo`, with room


@dataclass(frozen=True)
class Finding:
    """One line of the report. advice: what to do, where there is something."""

    state: str
    name: str
    detail: str
    advice: str = ""


def packages() -> Iterator[Finding]:
    """Installed versions against the pins of requirements.txt."""
    from packaging.requirements import Requirement

    install = "pip install -r requirements.txt"
    yield Finding(
        OK if sys.version_info >= (3, 11) else BROKEN, "python", platform.python_version(), "needs 3.11 or newer"
    )
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        pin = Requirement(line)
        found = installed(pin.name)
        if found is None and (pin.marker is None or pin.marker.evaluate()):
            state, lost = (NOTE, DISPENSABLE[pin.name]) if pin.name in DISPENSABLE else (BROKEN, "it is needed")
            yield Finding(state, pin.name, f"not installed: {lost}", install)
        elif found is not None and not pin.specifier.contains(found.partition("+")[0], prereleases=True):
            yield Finding(NOTE, pin.name, f"{found}, pinned {pin.specifier}", f"if something breaks: {install}")
        elif found is not None:
            yield Finding(OK, pin.name, found)
    for name, use in OPTIONAL.items():
        found = installed(name)
        yield Finding(OK, name, found) if found else Finding(NOTE, name, f"not installed (optional): {use}")


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> Iterator[Finding]:
    """CPU, GPUs, and the ways in which several processes can talk."""
    from dit.machine import bfloat16_slowdown
    from dit.rates import measured_matmul_rate

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rate = measured_matmul_rate("cpu", torch.float32) / 1e9
    capability = torch.backends.cpu.get_cpu_capability()
    detail = f"{cores} cores, {torch.get_num_threads()} torch threads, {capability}, {rate:.0f} GFLOP/s fp32 matmul now"
    yield Finding(OK, "cpu", detail)
    slower = bfloat16_slowdown()
    detail = f"a product takes {slower:.2g} times as long as in float32"
    advice = "this CPU has no units for it, or torch does not use them: keep trainer.precision=32-true here"
    yield Finding(NOTE if slower > 1 else OK, "cpu in bfloat16", detail, advice)
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        capability = f"{gpu.major}.{gpu.minor}"
        yield Finding(
            OK, f"gpu {index}", f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB, compute capability {capability}"
        )
    if not torch.cuda.is_available():
        hidden = Path("/dev/nvidiactl").exists()
        advice = f"torch {torch.__version__} cannot use it: compare its CUDA version with that of nvidia-smi"
        yield Finding(BROKEN, "gpu", "an NVIDIA device is there", advice) if hidden else Finding(NOTE, "gpu", "none")
    backends = [name for name in ("gloo", "nccl") if getattr(torch.distributed, f"is_{name}_available", bool)()]
    yield Finding(OK if backends else NOTE, "distributed", ", ".join(backends) or "no backend: one process only")
    compiler = next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)
    yield Finding(
        OK if compiler else NOTE, "compiler", compiler or "none: torch.compile cannot generate code for the CPU"
    )


def attention() -> Iterator[Finding]:
    """The kernel that `net/kernel=auto` takes for each kind of mask, and why it passes the others by."""
    from omegaconf import OmegaConf

    from dit.config.build import build
    from dit.net.kernels.auto import MASK_TYPES, choose, probe

    auto = build(OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "net" / "kernel" / "auto.yaml")))
    cases = [("cpu", torch.float32)] + [("cuda", torch.bfloat16)] * torch.cuda.is_available()
    for device, dtype in cases:
        refusals: dict[str, list[str]] = {}
        for mask_type in MASK_TYPES:
            mask = "no mask" if mask_type is None else mask_type.__name__
            kernel = choose(auto.candidates, device, dtype, 64, mask_type)
            yield Finding(OK, f"{device}, {mask}", type(kernel).__name__)
            for other in auto.candidates:
                why_not = probe(other, device, dtype, 64, mask_type)
                if why_not is not None:
                    refusals.setdefault(f"{type(other).__name__}: {why_not}", []).append(mask)
        for reason, masks in refusals.items():
            where = "any mask" if len(masks) == len(MASK_TYPES) else ", ".join(masks)
            yield Finding(NOTE, f"{device}, {where}", f"not {reason}")


def write_clip(path: Path, num_frames: int = 8) -> torch.Tensor:
    """An H.264 file of a bright square that moves over a gradient; returns its frames (F, H, W, 3) uint8."""
    import av

    height, width = 48, 64
    column, row = torch.arange(width).expand(height, width), torch.arange(height)[:, None].expand(height, width)
    frames = torch.stack([column * 3, row * 4, column + row], dim=-1).repeat(num_frames, 1, 1, 1).to(torch.uint8)
    for index in range(num_frames):
        frames[index, 16:32, 4 * index : 4 * index + 16] = 255
    with av.open(on_disk(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.numpy(), format="rgb24")))
        container.mux(stream.encode())
    return frames


def read_pyav(path: Path) -> torch.Tensor:
    import av

    with av.open(on_disk(path)) as container:
        stream = container.streams.best("video")
        return torch.stack([torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(stream)])


def read_decord(path: Path) -> torch.Tensor:
    import decord

    reader = decord.VideoReader(on_disk(path), num_threads=1, ctx=decord.cpu(0))
    return torch.from_numpy(reader.get_batch(range(len(reader))).asnumpy())


def read_torchcodec(path: Path) -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(on_disk(path), dimension_order="NHWC", num_ffmpeg_threads=1)
    return torch.stack([decoder[i] for i in range(len(decoder))])


DECODERS: dict[str, Callable[[Path], torch.Tensor]] = {
    "PyAV": read_pyav,
    "decord": read_decord,
    "torchcodec": read_torchcodec,
}


def video() -> Iterator[Finding]:
    """Encodes a clip and reads it back with every decoder; frames are compared with the original and with PyAV's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        try:
            original = write_clip(path)
        except Exception as error:  # noqa: BLE001 - whatever the encoder dies of is the finding
            yield Finding(BROKEN, "encoder", one_line(error), "pip install -r requirements.txt: samples are MP4 files")
            return
        yield Finding(OK, "encoder", f"PyAV wrote {len(original)} frames of H.264")
        first: tuple[str, torch.Tensor] | None = None
        for name, read in DECODERS.items():
            try:
                frames = read(path)
            except Exception as error:  # noqa: BLE001
                missing = isinstance(error, ModuleNotFoundError)
                detail = "not installed" if missing else f"does not decode: {one_line(error)}"
                advice = "" if missing else "clips are read by the decoders that work"
                yield Finding(NOTE, name, detail, advice)
                continue
            if frames.shape != original.shape:
                yield Finding(
                    NOTE, name, f"gave {tuple(frames.shape)} for a clip of {tuple(original.shape)}", "avoid it"
                )
                continue
            off = (frames.float() - original.float()).abs().mean().item()
            if off > 8:
                yield Finding(NOTE, name, f"frames are wrong: off by {off:.0f} of 255 on average", "avoid it")
                continue
            same = "" if first is None else compare(frames, *first)
            yield Finding(OK, name, f"decodes {len(frames)} frames, off by {off:.1f} of 255 on average{same}")
            first = first or (name, frames)
        if first is None:
            yield Finding(BROKEN, "decoders", "none works", "pip install -r requirements.txt")


def compare(frames: torch.Tensor, other: str, expected: torch.Tensor) -> str:
    if torch.equal(frames, expected):
        return f", equal to {other}'s bit for bit"
    return f", differs from {other}'s by up to {(frames.int() - expected.int()).abs().max()} of 255"


def room() -> Iterator[Finding]:
    """Free disk, memory and shared memory."""
    for name, folder, needed in (
        ("disk", ROOT, NEEDED_DISK),
        ("temporary files", Path(tempfile.gettempdir()), NEEDED_DISK),
    ):
        free = shutil.disk_usage(folder).free
        yield Finding(
            OK if free > needed else NOTE, name, f"{free / GIB:.1f} GiB free", "" if free > needed else "make room"
        )
    available = memory_available()
    if available is not None:
        enough = available > NEEDED_MEMORY
        yield Finding(
            OK if enough else NOTE,
            "memory",
            f"{available / GIB:.1f} GiB available",
            "" if enough else "make demo needs up to 4 GiB",
        )
    shared = Path("/dev/shm")
    if shared.is_dir():
        total = shutil.disk_usage(shared).total
        advice = "" if total >= NEEDED_SHARED else "loader workers pass clips through it: docker run --shm-size=8g"
        yield Finding(NOTE if advice else OK, "shared memory", f"{total / GIB:.1f} GiB", advice)


def memory_available() -> int | None:
    """Bytes, or None where the system does not tell."""
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    return next(
        (int(line.split()[1]) * 1024 for line in table.read_text().splitlines() if "MemAvailable" in line), None
    )


def loggers() -> Iterator[Finding]:
    """Where metrics can go. A CSV file is written always."""
    yield Finding(OK, "csv", "always")
    for name, module in {"wandb": "wandb", "tensorboard": "torch.utils.tensorboard"}.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001
            yield Finding(NOTE, name, f"not available: {one_line(error)}")
            continue
        yield Finding(OK, name, "available" + (", offline unless WANDB_MODE=online" if name == "wandb" else ""))


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


SECTIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    "packages": packages,
    "devices": devices,
    "attention (net/kernel=auto)": attention,
    "video": video,
    "room": room,
    "loggers": loggers,
}


def main() -> int:
    """Prints the report; 0 unless something needed is broken."""
    broken = []
    for title, section in SECTIONS.items():
        print(f"\n{title}")
        try:
            for finding in section():
                print(f"  {finding.state:6} {finding.name:22} {finding.detail}")
                if finding.advice and finding.state != OK:
                    print(f"  {'':6} {'':22} -> {finding.advice}")
                if finding.state == BROKEN:
                    broken.append(finding)
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - a check that dies is itself a finding, and the others still count
            broken.append(Finding(BROKEN, title, one_line(error)))
            print(f"  {BROKEN:6} {title:22} {one_line(error)}")
    print()
    if not broken:
        print("everything that is needed works")
        return 0
    for finding in broken:
        print(f"broken: {finding.name}: {finding.detail}" + (f" -> {finding.advice}" if finding.advice else ""))
    return 1


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        leave_unheard()
    sys.exit(code)
