"""Pages that a command prints instead of working: `--help`, and the first part of `show=true`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from dit.config.of_init import OWN, PLACES
from dit.entry.paths import CONFIGS, options

WIDTH = 120  # characters of a line
SHOWN = 60  # of a value
SCRIPTS = {"train": "train.py", "sample": "sample.py", "evaluate": "scripts/evaluate.py"}
EXAMPLES = {
    "train": (
        "experiment=demo name=mine                                # again: resumes runs/mine",
        "experiment=demo name=wide net.width=256 optim.lr=3e-4    # any key",
        "experiment=demo name=rope net/position=rope3d            # a part of a group",
        "-m experiment=demo name=sweep seed=0,1,2                 # a sweep: three runs",
        "experiment=demo name=deep net.depth=8 show=true          # what it would do, and nothing else",
    ),
    "sample": (
        'ckpt=runs/mine prompt="a red circle moves right" seed=3 num_samples=4',
        'ckpt=runs/mine prompt="a blue bar moves up" solver=heun num_steps=30 guidance.scale=2',
        "ckpt=runs/mine prompt_file=prompts.csv out=somewhere",
        'ckpt=runs/mine task=i2v image=frame.png prompt="a red circle moves right"',
        "again=runs/mine/samples/001/000.json out=somewhere       # one of the samples once more",
    ),
    "evaluate": (
        "ckpt=runs/mine                                     # again: goes on where it was stopped",
        "ckpt=runs/mine suite=[world,surprise] suite.surprise.num_fours=20",
        "ckpt=[runs/a,runs/b] suite=all                      # or a sweep's folder, or 'runs/demo-*'",
        "ckpt=runs/mine weights=raw out=somewhere            # ema, an average's name, or ema@0.10",
        "ckpt=runs/mine solver=heun schedule=karras num_steps=20",
    ),
}
WHERE_UNUSED = ("schedule", "solver", "guidance")  # of train.py: what previews sample with


def usage(config_name: str, about: str) -> str:
    """The page of `--help`: at most two screens of 24 lines.

    Args:
        config_name: of the root config.
        about: the docstring of the command, whose first line says what it does.
    """
    command = f"python {SCRIPTS.get(config_name, config_name)}"
    first = about.strip().splitlines()[0].partition(": `")[0].rstrip(".:") if about.strip() else command
    lines = [f"{first}.", "", f"usage: {command} [key=value ...] [group=choice ...]", ""]
    lines += [f"  {command} {example}" for example in EXAMPLES.get(config_name, ())]
    lines += [
        "",
        "groups and their choices (the first is the default; parts of net: net/position=..., in configs/net):",
    ]
    lines += [_choices(group, default) for group, default in _groups(config_name)]
    lines += [
        "",
        f"every key, with the values that it would have: {command} --cfg job",
        f"every key, with what it means: configs/{config_name}.yaml, and the files of configs/GROUP/",
        "lists are [a,b]; -m with key=a,b runs each; DIT_TRACEBACK=1 shows where an error comes from",
    ]
    return "\n".join(lines)


def differences(config_name: str, config: DictConfig) -> list[str]:
    """What was chosen of each group, and the values that are not those of the groups' files.

    Args:
        config: as Hydra composed it for a job.
    """
    choices = {
        group: choice
        for group, choice in HydraConfig.get().runtime.choices.items()
        if not group.startswith("hydra/") and choice is not None
    }
    for override in HydraConfig.get().overrides.task:  # of a group with several choices Hydra names none
        group, _, choice = override.partition("=")
        if choice.startswith("[") and (CONFIGS / group).is_dir():
            choices[group] = choice
    files = _flat(_of_files(config_name, choices))
    used = {group: choice for group, choice in choices.items() if choice != "none"}
    if OmegaConf.select(config, "preview") is None:
        used = {group: choice for group, choice in used.items() if group not in WHERE_UNUSED}
    listed = ", ".join(f"{group}={choice}" for group, choice in used.items())
    lines = ["groups:", *textwrap.wrap(listed, WIDTH - 2, break_on_hyphens=False, break_long_words=False)]
    lines = [lines[0], *(f"  {line}" for line in lines[1:]), "", "not as in the groups' files:"]
    left: list[str] = []
    now = _flat(_without_places(OmegaConf.to_container(config, resolve=False), "", left))
    if left:
        wrapped = textwrap.wrap(", ".join(left), WIDTH - 4, break_on_hyphens=False, break_long_words=False)
        lines += ["  left to the model of init_from:", *(f"    {line}" for line in wrapped)]
    for key, value in now.items():
        if key not in ("name", "show", *left) and (key not in files or files[key] != value):
            says = f"file says {_brief(files[key])}" if key in files else "not in a file"
            lines.append(f"  {key}: {_brief(value)} ({says})")
    return lines if not lines[-1].endswith("files:") else [*lines, "  nothing"]


def _of_files(config_name: str, choices: dict[str, str]) -> Any:
    """The config of the same choices without an experiment's own values and without those of the command line."""
    overrides = [f"{group}={choice}" for group, choice in choices.items() if group != "experiment"]
    kept = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            while True:
                try:
                    return OmegaConf.to_container(hydra.compose(config_name, overrides=overrides), resolve=False)
                except HydraException as error:
                    # A group that only the experiment brings in has to be added instead of overridden.
                    extra = [each for each in overrides if each[0] != "+" and f"'{each.split('=')[0]}'" in str(error)]
                    if not extra:
                        raise
                    overrides = [f"+{each}" if each in extra else each for each in overrides]
    finally:
        GlobalHydra.instance().clear()
        if kept is not None:
            GlobalHydra.instance().initialize(kept)


def _without_places(node: Any, prefix: str, left: list[str]) -> Any:
    """A config with the settings alone where a published model fills it; the keys of these places go into `left`."""
    if not isinstance(node, dict):
        return node
    if (settings := PLACES.get(str(node.get("_target_")))) is not None:
        left.append(prefix)
        return {name: value for name, value in node.items() if name in settings and value != OWN}
    return {
        name: _without_places(inner, f"{prefix}.{name}" if prefix else str(name), left) for name, inner in node.items()
    }


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of all that is no mapping."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    return {
        key: value
        for name, inner in node.items()
        for key, value in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _brief(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _groups(config_name: str) -> Iterator[tuple[str, str]]:
    root: Any = OmegaConf.load(CONFIGS / f"{config_name}.yaml")
    for entry in root["defaults"]:
        if isinstance(entry, DictConfig):
            for group, default in entry.items():
                if not str(group).startswith("override "):
                    yield str(group), str(default or "")


def _choices(group: str, default: str) -> str:
    """`group: a b c`, the default first; as many as fit into a line."""
    names = sorted(options(group), key=lambda name: (name != default, name))
    line = f"  {group}: {'' if default else '(nothing) '}{' '.join(names)}"
    if len(line) <= WIDTH:
        return line
    more = f" ... ({len(names)} in configs/{group})"
    return line[: WIDTH - len(more)].rpartition(" ")[0] + more
