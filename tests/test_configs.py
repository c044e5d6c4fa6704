"""Every YAML composes, builds, and has exactly the arguments of what it builds: no key is silently ignored."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from dit import foreign
from dit.config.build import build
from dit.config.kinds import TARGET, fitted
from dit.config.of_init import is_open
from dit.interop.presets import compose
from dit.sampling.checkpoint import KINDS
from tests.same import same

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
SPECIAL = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
FILES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("[!_]*.yaml"))
# What presets of a family share. Those of experiments are settings over a whole config, which mappings add to.
BASES = sorted(file for group in ("net", "data", "data/dataset") for file in (CONFIGS / group).glob("_*.yaml"))
EXPERIMENTS = [name.split("/", 1)[1] for name in FILES if name.startswith("experiment/")]
ROOTS = [name for name in FILES if "/" not in name]


def nodes(config: Any, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every mapping with a `_target_`, depth first, with its dotted path."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield path, config
        for key, value in config.items():
            yield from nodes(value, f"{path}.{key}" if path else str(key))
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from nodes(value, f"{path}[{index}]")


def mismatch(node: dict) -> str | None:
    """How the keys of a node differ from its constructor's arguments; None when they agree in both directions."""
    parameters = inspect.signature(get_object(node["_target_"])).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    keyword_only = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    # A partial is finished by its owner, who passes the positional arguments: the YAML holds the rest.
    wanted = keyword_only if node.get("_partial_") else named
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters):
        return f"{node['_target_']} takes *args or **kwargs, so a misspelt key would pass"
    keys = set(node) - SPECIAL
    if keys == wanted:
        return None
    return f"{node['_target_']}: not arguments: {sorted(keys - wanted)}; missing: {sorted(wanted - keys)}"


def composed(name: str, *overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


def plain(config: DictConfig) -> dict:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def outside(target: str) -> bool:
    """A library's class: its signature is not ours to mirror in full, but every key must be an argument of it."""
    return not target.startswith(("dit.", "data."))


def check(config: dict) -> None:
    wrong = []
    for path, node in nodes(config):
        if outside(node["_target_"]):
            parameters = inspect.signature(get_object(node["_target_"])).parameters
            open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            unknown = set() if open_ended else set(node) - SPECIAL - set(parameters)
            if unknown:
                wrong.append(f"{path}: {node['_target_']} has no {sorted(unknown)}")
        elif said := mismatch(node):
            wrong.append(f"{path}: {said}")
    assert not wrong, "\n".join(wrong)


def options() -> list[tuple[str, str]]:
    """(group, option) for every YAML inside a group."""
    named = [(name.rpartition("/")[0], name.rpartition("/")[2]) for name in FILES if "/" in name]
    return [(group, option) for group, option in named if group != "experiment"]


def defaults(name: str) -> set[str]:
    """The groups that a root config draws from."""
    entries = OmegaConf.load(CONFIGS / f"{name}.yaml").get("defaults", [])
    return {str(key) for entry in entries if isinstance(entry, DictConfig) for key in entry}


SAMPLE_ONLY = {group for group in defaults("sample") - defaults("train") if not group.startswith("override")}
EVALUATE_ONLY = {"suite", "features", "frame_features", "flow", "lpips"}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_compose_with_exact_keys(experiment: str) -> None:
    check(plain(composed("train", f"experiment={experiment}", "name=test")))


# Groups that are not mounted under their own name in the demo: what must be chosen first, and where they then stand.
MOUNTS = {
    "data/dataset": (["experiment=demo"], "data/dataset@data.train"),
    "data/decoder": (["experiment=real_clips"], "data/decoder"),
    "data/shapes": (["experiment=real_clips"], "data/shapes"),
    "net/guidance": (["experiment=demo", "net=hunyuan_video_tiny"], "net/guidance"),
    "net/ofs": (["experiment=demo", "net=cogvideox_tiny"], "net/ofs"),
    "alignment/encoder": (["experiment=demo", "alignment=repa"], "alignment/encoder"),
    "codec/tiling": (["experiment=demo", "codec=tiny"], "codec/tiling"),
    "codec/network": (["experiment=vae_world"], "codec/network@net"),
    "recipe/perceptual": (["experiment=vae_world"], "recipe/perceptual"),
    "recipe/adversary": (["experiment=vae_world"], "recipe/adversary"),
}
# Groups whose options are not built here: networks are built without memory, data wants files, and an encoder to align
# with is downloaded.
ELSEWHERE = {"net", "data", "alignment"}
PLACES = {key.rpartition(".")[2]: key for key in KINDS}  # what a file from elsewhere may ask for
# An option of a group that belongs to sample.py although train.py has the group as well.
OF_SAMPLING = {("guidance", "own"), ("codec/tiling", "own")}


def wants_files(node: dict) -> bool:
    """Whether a part is read from a folder or file, which the YAML cannot name: tests of its own build it."""
    named = [key for key in ("folder", "encoder", "ckpt") if key in node]
    return any(node[key] is None for key in named) and not node.get("_partial_")


# Options of these groups are put into one config of all of them: composing takes most of this file's time.
TOGETHER = sorted(
    {group for group, _ in options()}
    - SAMPLE_ONLY
    - EVALUATE_ONLY
    - set(MOUNTS)
    - {"net", "data", "logger", "recipe", "alignment"}
)


@cache
def with_option(group: str, option: str) -> dict:
    """The config in which a user would put an option: over the demo experiment, or over the sampler."""
    base, key = MOUNTS.get(group, (["experiment=demo"], group))
    if group in SAMPLE_ONLY or (group, option) in OF_SAMPLING:
        return plain(composed("sample", "ckpt=runs/test", f"{key}={option}"))
    if group in EVALUATE_ONLY:
        return plain(composed("evaluate", "ckpt=runs/test", f"{key}={option}"))
    if group == "net":  # stands by itself: half the time that the demo around it takes
        return {"net": compose(option)}
    if group in TOGETHER:
        return round_of([name for of, name in options() if of == group].index(option))
    return plain(composed("train", "name=test", *base, f"{key}={option}"))


@cache
def round_of(number: int) -> dict:
    """The demo with option `number` of each group (its last one, where it has fewer)."""
    chosen = []
    for group in TOGETHER:
        names = [name for of, name in options() if of == group and (of, name) not in OF_SAMPLING]
        chosen.append(f"{group}={names[min(number, len(names) - 1)]}")
    return plain(composed("train", "name=test", "experiment=demo", *chosen))


@pytest.mark.parametrize("group, option", options())
def test_every_option_composes_with_exact_keys_and_builds(group: str, option: str) -> None:
    config = with_option(group, option)
    check(config)
    fitted(config)  # every value is one that its argument takes
    node = config.get(group)
    if is_open(node):  # for a published model to fill
        with pytest.raises(ValueError, match=f"{group} is that of a published model"):
            build(node, group)
    elif group == "net":
        with torch.device("meta"):
            assert sum(p.numel() for p in instantiate(node, _convert_="all").parameters()) > 0
    elif node is not None and group not in ELSEWHERE and not wants_files(node):
        theirs = instantiate(node, _convert_="all")
        assert same(build(node, group), theirs)
        if group in PLACES:
            several = TARGET not in node  # signals: one a name
            for name, each in node.items() if several else [(group, node)]:
                ours = foreign.build(each, KINDS[PLACES[group]], name)
                assert same(ours, theirs[name] if several else theirs), name


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_build(experiment: str) -> None:
    """Network, codec, text encoder and objective really construct from the composed config."""
    config = composed("train", f"experiment={experiment}", "name=test")
    if is_open(plain(config)):
        with pytest.raises(ValueError, match="net is that of a published model"):
            build(plain(config)["net"])
        return  # tests/entry/test_finetune_pipeline.py fills and builds it
    for part in ("codec", "text", "objective", "recipe"):
        node = plain(config).get(part)  # an autoencoder is trained without text and objective
        assert node is None or wants_files(node) or instantiate(node, _convert_="all") is not None
    with torch.device("meta"):
        assert instantiate(config.net, _convert_="all") is not None


def test_a_misspelt_key_is_seen() -> None:
    config = plain(composed("train", "experiment=demo", "name=test"))
    config["net"]["dpeth"] = 3
    with pytest.raises(AssertionError, match="dpeth"):
        check(config)
    del config["net"]["dpeth"], config["net"]["depth"]
    with pytest.raises(AssertionError, match="depth"):
        check(config)


def test_presets_inherit_from_bases_alone() -> None:
    """Hydra merges mappings, so a preset built on a sibling would keep what the sibling's hold."""
    for name in FILES:
        group = name.rpartition("/")[0]
        if name == "suite/all":  # no preset, but a list of the others, each in a place of its own
            continue
        siblings = {f.rpartition("/")[2] for f in FILES if f.rpartition("/")[0] == group} if group else set()
        for entry in OmegaConf.load(CONFIGS / f"{name}.yaml").get("defaults", []):
            assert not (isinstance(entry, str) and entry in siblings), f"{name} inherits from its sibling {entry}"


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.relative_to(CONFIGS).as_posix())
def test_a_base_holds_what_two_presets_share(base: Path) -> None:
    """No preset adds to a mapping that it holds, since it could take nothing away."""
    body, *presets = (OmegaConf.to_container(OmegaConf.load(file)) for file in (base, *base.parent.glob("[!_]*.yaml")))
    heirs = [preset for preset in presets if base.stem in preset.get("defaults", [])]
    assert len(heirs) > 1
    for key, value in body.items():
        if isinstance(value, dict) and value:
            assert not any(key in preset for preset in heirs), key


@pytest.mark.parametrize("base", sorted((CONFIGS / "net").glob("_*.yaml")), ids=lambda base: base.stem)
def test_a_base_of_networks_is_none_itself(base: Path) -> None:
    body = OmegaConf.load(base)
    assert all(OmegaConf.is_missing(body, size) for size in ("width", "depth", "heads"))


def test_every_suite_is_among_all_of_them() -> None:
    """And stands under its own name, so that several go together: `suite=[world,surprise]`."""
    names = {file.stem for file in (CONFIGS / "suite").glob("*.yaml")} - {"all"}
    assert set(with_option("suite", "all")["suite"]) == names
    assert all(set(with_option("suite", name)["suite"]) == {name} for name in names)


def test_every_experiment_says_its_question_and_command() -> None:
    for name in EXPERIMENTS:
        head = (CONFIGS / f"experiment/{name}.yaml").read_text().split("\ndefaults", 1)[0]
        for word in ("Question", "Command"):
            assert f"# {word}" in head, f"experiment/{name}.yaml: its head must say '# {word}: ...'"


def test_entry_points_hold_no_logic() -> None:
    for script in ("train.py", "sample.py", "scripts/evaluate.py"):
        tree = ast.parse((ROOT / script).read_text())
        branches = [n for n in ast.walk(tree) if isinstance(n, (ast.For, ast.While, ast.Try))]
        assert not branches and len((ROOT / script).read_text().splitlines()) <= 60, script


COMMANDS = [
    ("train", "dit.engine.config"), ("sample", "dit.sampling.config"), ("evaluate", "dit.evaluation.harness.config")
]  # fmt: skip


@pytest.mark.parametrize("name, module", COMMANDS)
def test_every_key_of_a_command_has_a_type(name: str, module: str) -> None:
    """What `dit.config.kinds` holds the top level against; a task of sample.py adds keys that its own class checks."""
    config = composed(name, *(["experiment=demo"] if name == "train" else []))
    written = set(OmegaConf.load(CONFIGS / f"{name}.yaml")) | set(config)
    extra = {"defaults", "hydra", "experiment"}
    assert written - extra == set(typing.get_type_hints(get_object(f"{module}.Config")))
