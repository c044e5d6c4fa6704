"""What is said of a run that is built: its settings and sizes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.batch import Measured
from dit.engine.module import VideoDiffusion
from dit.engine.resume import Start

log = logging.getLogger(__name__)


def log_settings(module: VideoDiffusion, config: Mapping[str, Any], run: Path) -> None:
    """Logs the effective settings, a line for each group, and the size of every part. config.yaml holds all of it."""
    groups = {name: node for name, node in config.items() if isinstance(node, dict) and "_target_" in node}
    for group, node in config.items():
        others = {name: known for name, known in groups.items() if name != group}
        log.info("%s: %s", group, _brief(node, others))
    for name in ("net", "text", "codec", *module.parts):
        part = getattr(module, name)
        parameters = [] if part is None else list(part.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        log.info("%s has %s parameters, %s trained", name, f"{sum(p.numel() for p in parameters):,}", f"{trained:,}")
    log.info("run directory: %s", run)


def summary(module: VideoDiffusion, data: Any, run: Path, start: Start, max_steps: int) -> list[str]:
    """What `show=true` says of a run that is built: sizes, the run directory, and where it would begin."""
    shape = module.codec.latent_shape(data.num_frames, data.height, data.width)
    clip = f"{data.num_frames} frames of {data.height}x{data.width}"
    lines = ["sizes:"]
    for name in ("net", "text", "codec", *module.parts):
        part = getattr(module, name)
        count = 0 if part is None else sum(p.numel() for p in part.parameters())
        lines += [f"  {name}: {count:,} parameters"] if count else []
    lines.append(f"  a clip: {clip}, {module.net.num_tokens(*shape):,} tokens")
    lines += _shapes(module, data)
    signals = [f"{name} ({', '.join(each.entries)})" for name, each in module.signals.items()]
    lines.append(f"  the network is told: {', '.join(signals) or 'nothing'}")
    lines.append(f"run directory: {run}")
    if start.checkpoint is None:
        lines.append(f"would start at step 0 of {max_steps}")
    elif start.step >= max_steps:
        lines.append(f"would do nothing: step {start.step} of {max_steps} is done")
    else:
        lines.append(f"would resume {start.checkpoint} at step {start.step} of {max_steps}")
    return [*lines, *(f"  with {key}: {now} ({before} before)" for key, before, now in start.changes)]


def _shapes(module: VideoDiffusion, data: Any) -> list[str]:
    """A line for each shape, where clips have several."""
    shapes = data.shapes_of(data.train) if isinstance(data, Measured) else []  # type: ignore[attr-defined]
    if len(shapes) < 2:
        return []
    tokens = [module.net.num_tokens(*module.codec.latent_shape(*shape)) for shape in shapes]
    listed = zip(shapes, tokens, strict=True)
    return [f"  clips of {shape}: {count:,} tokens, {data.rows(shape)} in a batch" for shape, count in listed]


def _brief(node: Any, groups: Mapping[str, Any], inside: bool = False) -> str:
    """A config node in the form of a call, its parts by name: `Serial(layout=Full)`; another group as `<path>`."""
    for group, known in groups.items():
        if node == known:
            return f"<{group}>"
    if isinstance(node, dict):
        name = str(node.get("_target_", "")).rpartition(".")[2]
        if inside and name:
            return name
        if inside and any(isinstance(value, dict) for value in node.values()):
            return f"{{{', '.join(map(str, node))}}}"
        shown = {key: _brief(value, groups, inside=True) for key, value in node.items() if not str(key).startswith("_")}
        listed = ", ".join(f"{key}={value}" for key, value in shown.items())
        return f"{name}({listed})" if name else f"{{{listed}}}"
    return f"[{', '.join(_brief(each, groups, True) for each in node)}]" if isinstance(node, list) else str(node)
