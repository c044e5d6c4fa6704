"""Writes docs/backbone.md from configs/net, so that it says what the configs say.

python scripts/backbone_table.py            # write it
python scripts/backbone_table.py --check    # only say whether it is what the configs say (exit code 1 if not)
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dit.entry import CONFIGS, ROOT
from dit.interop.presets import compose

PAGE = ROOT / "docs" / "backbone.md"
SIZES = ("in_channels", "out_channels", "width", "depth", "heads", "patch", "pattern", "text_width")
# Groups that say how a network computes or starts, not what it computes.
HOW = ("init", "kernel", "checkpointing")
HEAD = """# One backbone

Every network of this project is `dit.net.backbone.Backbone` with other parts. This page is written by
`python scripts/backbone_table.py` from `configs/net`, and a test holds it against them: do not edit it.

`net=<name>` takes a row; `net/<column>=<value>` puts another value of the same column in its place
(`python train.py net=wan21_tiny net/position=sincos net/qk_norm=none net.pattern=ST`). Each value is a file,
`configs/net/<column>/<value>.yaml`, which lists every setting. A `-` is `none`: the part is absent. What stands in
brackets is a setting that the row itself changes.
"""


def presets() -> list[str]:
    """Names of configs/net, those of one model beside each other."""
    return sorted(path.stem for path in (CONFIGS / "net").glob("*.yaml"))


def source(name: str) -> DictConfig:
    """The YAML of a preset as it is written."""
    config = OmegaConf.load(CONFIGS / "net" / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    return config


def choices(config: DictConfig) -> dict[str, str]:
    """Group -> option of a preset, in the order in which it lists them."""
    return {str(key): str(value) for entry in config.defaults if entry != "_self_" for key, value in entry.items()}


def changed(config: DictConfig, group: str) -> str:
    """Settings inside a group that the preset itself changes, as ` (ratio=2.5)`."""
    own = config.get(group)
    if not isinstance(own, DictConfig):
        return ""
    flat = ", ".join(f"{key}={short(value)}" for key, value in flatten(OmegaConf.to_container(own)))
    return f" ({flat})" if flat else ""


def flatten(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(prefix.rstrip("."), node)]
    return [pair for key, value in node.items() for pair in flatten(value, f"{prefix}{key}.")]


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def runs(pattern: str) -> str:
    """A pattern with long runs counted: `D*20 P*40`."""
    groups = [(letter, len(list(group))) for letter, group in itertools.groupby(pattern)]
    return " ".join(f"{letter}*{count}" for letter, count in groups) if len(pattern) > 8 else pattern


def parameters(name: str) -> int:
    """Counted on the meta device."""
    with torch.device("meta"):
        return sum(p.numel() for p in instantiate(compose(name), _convert_="all").parameters())


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def page() -> str:
    """The whole page."""
    names = presets()
    columns = [group for group in choices(source(names[0])) if group not in HOW]
    sizes, parts = [], []
    for name in names:
        config = source(name)
        values = compose(name)
        cells = [runs(values[key]) if key == "pattern" else short(values[key]) for key in SIZES]
        sizes.append([f"`{name}`", f"{parameters(name) / 1e6:,.1f} M", *cells])
        chosen = choices(config)
        parts.append(
            [f"`{name}`", *("-" if chosen[c] == "none" else f"{chosen[c]}{changed(config, c)}" for c in columns)]
        )
    comments = "\n".join(f"- `{name}`: {first_comment(name)}" for name in names)
    return (
        f"{HEAD}\n## Models\n{comments}\n\n## Sizes\n{table(['net', 'parameters', *SIZES], sizes)}\n"
        f"## Parts\n{table(['net', *columns], parts)}"
    )


def first_comment(name: str) -> str:
    """What the YAML says of itself on its first line."""
    return (CONFIGS / "net" / f"{name}.yaml").read_text().splitlines()[0].lstrip("# ")


def main(arguments: list[str]) -> None:
    text = page()
    if arguments == ["--check"]:
        if PAGE.read_text() != text:
            print(f"{PAGE.relative_to(ROOT)} is not what configs/net says; run python scripts/backbone_table.py")
            raise SystemExit(1)
        return
    if arguments:
        print(__doc__)
        raise SystemExit(2)
    PAGE.write_text(text)
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
