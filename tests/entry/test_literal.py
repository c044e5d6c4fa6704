"""Prompts, files and names reach a task exactly as the shell gave them."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from dit.entry import main
from dit.entry.literal import LISTS, NAMES, TEXTS, check_braces, literal

NASTY = [
    "moves to the right, quickly",
    "it's a dog's life",
    'he said "go"',
    "both ' and \"",
    "a: b, [c] {d} (e) ~f = g",
    "größer, 更大, ✓, é",
    "~",
    "null",
    "true",
    "007",
    "1_000",
    "1e5",
    "-1",
    "",
    " ",
    "  leading and trailing  ",
    "two\nlines\tand a tab",
    "${seed}",
    r"\${seed}",
    r"\\${oc.env:HOME}",
    "${",
    "$HOME ${a",
    "100 % of \\ backslash \\",
    "ends in a quote'",
    "'quoted'",
    '"quoted"',
    "prompt=a=b",
    "choice(a,b)",
    "--cfg job",
    "+x=1",
    "#no comment",
    "a,b,c",
    "@, *, ?, |, ;, &, <, >",
]


def run(config_name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a task of that config is given, one dict a job."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(sys, "argv", [f"{config_name}.py", *arguments])
    main(config_name)(lambda config: seen.append(config))()
    assert sys.argv[1:] == arguments
    return seen


@pytest.mark.parametrize("text", NASTY)
def test_a_text_is_taken_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    path = text if text != "null" else None  # no file of that name is meant
    (asked,) = run(
        "sample",
        [f"ckpt=x{text}", f"prompt={text}", f"negative_prompt={text}", f"out={text}", "task=i2v", f"image={text}"],
        monkeypatch,
    )
    assert (asked["ckpt"], asked["prompt"], asked["negative_prompt"]) == (f"x{text}", text, text)
    assert asked["out"] == path and asked["image"] == path and asked["task"]["image"] == path


def test_every_entry_point_takes_paths_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    path = "clips, größer/it's [1] ${x}/a=b"
    (asked,) = run(
        "train",
        ["experiment=real_clips", f"data.root={path}", "data.manifest=null", f"init_from={path}", "++name=ünï"]
        + [f"preview.prompts={path}"],
        monkeypatch,
    )
    assert (asked["data"]["root"], asked["data"]["manifest"], asked["init_from"]) == (path, None, path)
    assert asked["name"] == "ünï" and asked["preview"]["prompts"] == [path]
    (asked,) = run("train", ["experiment=demo", "codec=pretrained", f"codec.folder={path}"], monkeypatch)
    assert asked["codec"]["folder"] == path
    halves = [f"codec.encoder={path}1", f"codec.decoder={path}2"]
    (asked,) = run("train", ["experiment=demo", "codec=tiny", *halves], monkeypatch)
    assert (asked["codec"]["encoder"], asked["codec"]["decoder"]) == (f"{path}1", f"{path}2")
    (asked,) = run("train", ["experiment=demo", "text=t5", f"text.folder={path}", f"text_cache={path}"], monkeypatch)
    assert (asked["text"]["folder"], asked["text_cache"]) == (path, path)
    (asked,) = run("sample", ["ckpt=x", f"folders.text={path}", f"folders.codec={path}2"], monkeypatch)
    assert asked["folders"] == {"text": path, "codec": f"{path}2"}
    (asked,) = run("evaluate", [f"ckpt={path}", f"out={path}"], monkeypatch)
    assert (asked["ckpt"], asked["out"]) == (path, path)


@pytest.mark.parametrize(
    "given, prompts",
    [
        ('["a, b", "it\'s: ${c}", "größer"]', ["a, b", "it's: ${c}", "größer"]),
        ("[a red circle, a blue bar]", ["a red circle", "a blue bar"]),
        ("a red circle, quickly", ["a red circle, quickly"]),
        ("[1, 2]", ["1", "2"]),
    ],
)
def test_a_list_of_texts(given: str, prompts: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (asked,) = run("train", ["experiment=demo", f"preview.prompts={given}"], monkeypatch)
    assert asked["preview"]["prompts"] == prompts


def test_random_texts_survive_hydra_and_omegaconf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The quoting alone, without a whole command: 500 texts of the signs that mean something to either grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parser, draw = OverridesParser.create(), random.Random(0)
    signs = ["'", '"', "\\", "$", "{", "}", "a", " ", "\n", ",", "=", "ö", "[", "]", "(", ")", "~", ":", "${", "\\${"]
    for _ in range(500):
        text = "".join(draw.choice(signs) for _ in range(draw.randint(0, 8)))
        override = parser.parse_override(literal([f"prompt={text}"])[0])
        config = OmegaConf.create({"prompt": override.value(), "task": {"again": "${prompt}"}})
        assert OmegaConf.to_container(config, resolve=True) == {"prompt": text, "task": {"again": text}}


def test_what_is_no_text_is_left_to_the_grammar() -> None:
    arguments = ["net.depth=8", "net/position=rope3d,sincos", "net.patch=[1,4,4]", "+data.train.speeds.fast=0.8"]
    assert literal(["-m", *arguments]) == ["-m", *arguments]
    others = ["net.text.image=null", "~prompt", "--cfg", "job"]
    assert literal(others) == others


def test_sweeps_over_texts_and_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = run("train", ["-m", "experiment=demo", "name=a,b"], monkeypatch)
    assert [job["name"] for job in jobs] == ["a", "b"]
    jobs = run("train", ["-m", "experiment=demo", "name=s", 'init_from=choice("x, ö ${y}", z)'], monkeypatch)
    assert [job["init_from"] for job in jobs] == ["x, ö ${y}", "z"]
    names = [job["name"] for job in jobs]
    assert re.fullmatch(r"s-init_from\.x_ö_y__[0-9a-f]{8}", names[0]) and names[1] == "s-init_from.z"
    (job,) = run("train", ["-m", "experiment=demo", "name=s", "init_from=x, y"], monkeypatch)
    assert job["init_from"] == "x, y" and job["name"] == "s"


def test_every_key_of_the_lists_is_in_a_config() -> None:
    """A key that was renamed would silently lose its quoting."""
    from dit.entry import CONFIGS

    keys = {line.split(":")[0].strip() for file in CONFIGS.rglob("*.yaml") for line in file.read_text().splitlines()}
    stale = {key for key in TEXTS | NAMES | LISTS if key.rpartition(".")[2] not in keys} - {"resume_from"}
    assert not stale


@pytest.mark.parametrize("key", ["data.manifest", "manifest"])
def test_braces_that_the_shell_has_expanded_are_not_taken_for_one_shard(key: str) -> None:
    shards = [f"{key}=clips/train-{number:03d}.tar" for number in range(3)]
    with pytest.raises(ValueError, match=rf"{key} is given 3 times, from .*-000.tar to .*-002.tar: .* in quotes"):
        check_braces(["experiment=real_clips", *shards])
    check_braces([shards[0], f"{key}=list.csv"])  # a script may say something else behind its defaults
