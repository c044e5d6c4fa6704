"""Writes docs/backbone.md from configs/net, so that it says what the configs say.

python scripts/backbone_table.py            # write it
python scripts/backbone_table.py --check    # only say whether it is what the configs say (exit code 1 if not)
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from omegaconf import DictConfig, OmegaConf

from dit.config.pattern import runs
from dit.entry import CONFIGS, ROOT, options
from dit.interop.presets import build_empty, compose

PAGE = ROOT / "docs" / "backbone.md"
SIZES = ("in_channels", "out_channels", "concat_channels") + (
    "width",
    "level_width",
    "depth",
    "heads",
    "patch",
    "pattern",
    "text_width",
)
# Groups that say how a network computes or starts, not what it computes.
HOW = ("init", "kernel", "checkpointing")
HEAD = """# One backbone

Every network of this project is `dit.net.backbone.Backbone` with other parts. This page is written by
`python scripts/backbone_table.py` from `configs/net`, and a test holds it against them: do not edit it.

- [Parts](#parts): how the models differ. Models with the same parts share a row.
- [Sizes](#sizes): every model with its sizes, and what it is.
- [Values](#values): what each value in the table of parts means, and what else there is to choose from.

`net=<name>` takes a model; `net/<column>=<value>` puts another part in the place of its own:
`python train.py net=wan21_tiny net/position=sincos net/qk_norm=none net.pattern=ST`.
"""
PARTS = """
## Parts
`blocks` are the letters of `net.pattern`, each a kind of block among the `templates`. A `-` is `none`: the part is
absent. Where more than half of a column is one value, the others are **bold**.

"""
SIZES_HEAD = """
## Sizes
`in_channels` are those of the noisy latents; `concat_channels` are put behind them. `level_width` is given where it is
not the width. The last column has single settings inside a part that the model changes.

"""
VALUES = """
## Values
Each value is a file, `configs/net/<column>/<value>.yaml`, which lists every setting; this is what it says of itself.
"""


def presets() -> list[str]:
    """Names of configs/net, those of one model beside each other."""
    return options("net")


def source(name: str) -> DictConfig:
    """The YAML of a preset as it is written, over that of its base; `defaults` holds the choices of both."""
    config = OmegaConf.load(CONFIGS / "net" / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    bases = [entry for entry in config.defaults if isinstance(entry, str) and entry != "_self_"]
    if not bases:
        return config
    base = source(bases[0])
    both = OmegaConf.merge(base, config)
    both.defaults = [{group: option} for group, option in {**choices(base), **choices(config)}.items()]
    assert isinstance(both, DictConfig)
    return both


def choices(config: DictConfig) -> dict[str, str]:
    """Group -> option of a preset, in the order in which it lists them."""
    named = [entry for entry in config.defaults if not isinstance(entry, str)]
    return {str(key).removeprefix("override "): str(value) for entry in named for key, value in entry.items()}


def own_settings(config: DictConfig) -> str:
    """Settings inside a part that the preset itself changes: `mlp.ratio=2.5`."""
    own = {group: OmegaConf.to_container(config[group]) for group in choices(config) if group in config}
    return ", ".join(f"{key}={short(value)}" for key, value in flatten(own) if key.split(".")[0] not in HOW)


def flatten(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(prefix.rstrip("."), node)]
    return [pair for key, value in node.items() for pair in flatten(value, f"{prefix}{key}.")]


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parameters(values: dict[str, Any]) -> int:
    """Of the network of a composed config; counted on the meta device."""
    return sum(p.numel() for p in build_empty(values).parameters())


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def columns(configs: Iterable[DictConfig]) -> list[str]:
    """All groups of parts, each behind the one that it follows in a preset."""
    found: list[str] = []
    for config in configs:
        groups = [group for group in choices(config) if group not in HOW]
        for before, group in zip([None, *groups], groups, strict=False):
            if group not in found:
                found.insert(0 if before is None else found.index(before) + 1, group)
    return found


def parts_table(configs: dict[str, DictConfig]) -> str:
    """Rows the models, those with equal parts in one; columns the parts; cells the values that the configs choose."""
    groups = columns(configs.values())
    names_of: dict[tuple[str, ...], list[str]] = {}
    for name, config in configs.items():
        chosen = choices(config)
        letters = "".join(dict.fromkeys(letter for letter, _ in runs(config.pattern)))
        values = (letters, *(chosen.get(group, "none") for group in groups))
        names_of.setdefault(values, []).append(f"`{name}`")
    usual = [most(values) for values in zip(*names_of, strict=True)]
    rows = [
        [", ".join(names), *(cell(value, common) for value, common in zip(values, usual, strict=True))]
        for values, names in names_of.items()
    ]
    return table(["net", "blocks", *groups], rows)


def most(values: Sequence[str]) -> str | None:
    """The value of more than half, if there is one."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def cell(value: str, usual: str | None) -> str:
    shown = "-" if value == "none" else value
    return f"**{shown}**" if usual not in (None, value) else shown


def sizes_table(configs: dict[str, DictConfig]) -> str:
    rows = []
    for name, config in configs.items():
        values = compose(name)
        sizes = [size(key, values) for key in SIZES]
        rows.append([f"`{name}`", f"{parameters(values) / 1e6:,.1f} M", *sizes, own_settings(config), said(name)])
    return table(["net", "parameters", *SIZES, "settings", "what it is"], rows)


def size(key: str, values: dict[str, Any]) -> str:
    """A cell of the table of sizes."""
    if key == "level_width" and values[key] == values["width"]:
        return ""
    if key == "concat_channels":
        return ", ".join(f"{name} {channels}" for name, channels in values[key].items() if channels)
    return short(values[key])


def values_list(groups: Iterable[str]) -> str:
    """What each option of the groups says of itself."""
    sections = []
    for group in groups:
        files = [CONFIGS / "net" / group / f"{option}.yaml" for option in options(f"net/{group}")]
        lines = [line for file in files for line in (f"- `{file.stem}`: {said(f'{group}/{file.stem}')}", *blocks(file))]
        sections.append(f"\n### {group}\n" + "\n".join(lines) + "\n")
    return "".join(sections)


def blocks(file: Path) -> list[str]:
    """The kinds of block of a file of templates: its lines such as `F: # full attention over all tokens`."""
    return [f"  - `{letter}`: {kind}" for letter, kind in re.findall(r"^([A-Z]): # (.+)$", file.read_text(), re.M)]


def page() -> str:
    """The whole page."""
    configs = {name: source(name) for name in presets()}
    groups = [*columns(configs.values()), *HOW]
    return "".join([HEAD, PARTS, parts_table(configs), SIZES_HEAD, sizes_table(configs), VALUES, values_list(groups)])


def said(name: str) -> str:
    """What a YAML of configs/net says of itself: the comment that it begins with, but for Hydra's own line."""
    lines = (CONFIGS / "net" / f"{name}.yaml").read_text().splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("# ") for line in comment if not line.startswith("# @package"))


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
