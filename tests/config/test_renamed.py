"""Configs with names of before: they build, and are the configs of today."""

from __future__ import annotations

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dit.config.kinds import TARGET, arguments, resolve
from dit.config.renamed import ADDED, ARGUMENTS, CLASSES, HELD, current
from dit.diffusion.given import HELD_NODE
from dit.engine import rundir
from dit.interop.presets import CONFIGS

CLASSES_BEFORE = {now: before for before, now in CLASSES.items()}


def as_before(node: Any) -> Any:
    """A config of today with the names of before."""
    if isinstance(node, list):
        return [as_before(each) for each in node]
    if not isinstance(node, dict):
        return node
    target = node.get(TARGET)
    names = {now: before for before, now in ARGUMENTS.get(target, {}).items()}
    renamed = {names.get(key, key): as_before(value) for key, value in node.items()}
    return {**renamed, TARGET: CLASSES_BEFORE.get(target, target)} if TARGET in node else renamed


def config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        made = compose("train", ["experiment=demo", "name=x", "alignment=repa", "lora=default", *overrides])
    return OmegaConf.to_container(made, resolve=True)  # type: ignore[return-value]


@pytest.mark.parametrize("before", CLASSES)
def test_each_name_of_today_is_there_and_none_of_before(before: str) -> None:
    resolve(CLASSES[before])
    with pytest.raises(ValueError, match="not there to be built"):
        resolve(before)


@pytest.mark.parametrize("target", ARGUMENTS)
def test_each_argument_of_today_is_there_and_none_of_before(target: str) -> None:
    there = arguments(target, partial=False)
    assert there is not None
    for before, now in ARGUMENTS[target].items():
        assert now in there and before not in there


def test_a_run_of_before_is_the_same_run_today() -> None:
    today = config()
    before = as_before(today)
    assert before["alignment"] != today["alignment"] and before["net"] != today["net"]
    assert current(before) == today
    assert not rundir.differences(before, today)


def test_what_was_added_means_what_it_meant() -> None:
    before = {TARGET: "dit.net.final.AdaLNFinal", "_partial_": True, "bias": True}
    assert current({"net": {"final": before}})["net"]["final"] == {**before, "level": None}
    own = {**before, TARGET: "dit.net.final.OneLevelFinal", "level": {TARGET: "dit.net.context.LastFrame"}}
    assert current(own) == {**before, "level": {TARGET: "dit.net.sequence.LastFrame"}}


@pytest.mark.parametrize(
    "file",
    [
        *("given/held", "given/held_afresh", "given/beside", "codec/pretrained", "codec/tiny", "codec/vae"),
        "signals/guidance",
    ],
)
def test_a_node_without_what_was_added_is_the_one_of_today(file: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{file}.yaml"))
    node = node if TARGET in node else node.popitem()[1]  # type: ignore[operator,union-attr,call-arg]
    assert isinstance(node, dict)
    before = {key: value for key, value in node.items() if key not in ADDED[node[TARGET]]}
    assert before != node and current(before) == node


@pytest.mark.parametrize("part", ["position", "qk_norm", "text"])
def test_a_part_that_was_null_is_the_class_of_none(part: str) -> None:
    """Networks of before said null where a part was left out."""
    today = config(f"net/{part}=none")["net"]
    assert today[part]["_partial_"] and current({"net": {**today, part: None}})["net"] == today
    assert current(today) == today


def test_a_run_that_knew_one_way_of_giving_frames_goes_on() -> None:
    today = config()
    before = {key: value for key, value in today.items() if key != "given"}
    before["objective"] = {key: value for key, value in today["objective"].items() if key != "given"}
    assert HELD == HELD_NODE == today["given"]
    assert not rundir.differences({"given": HELD_NODE, **before}, today)
