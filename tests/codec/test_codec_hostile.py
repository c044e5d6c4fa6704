"""Codecs in files of strangers: attacks under every key, and folders whose settings nobody would choose."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from dit.folders import CONFIG
from dit.foreign import Refused, build
from dit.sampling.checkpoint import KINDS
from tests.codec.autoencoders import CASES, DEFAULTS, codec, saved
from tests.codec.test_tiny import SETTINGS, files
from tests.hostile import attacks, places, replaced, watched

ODD = (None, True, -1, 0, 3, 2.5, 10**9, 2**62, 1e300, float("nan"), float("inf"), "", "x", "a\nb", [], {}, [[1]])
TILING = {"_target_": "dit.codec.tiling.Tiling", "num_frames": None, "height": 8, "width": None, "overlap": 0.25}


def nodes(folder: Path) -> list[dict[str, Any]]:
    """Of both codecs with weights, as a checkpoint's config holds them."""
    vae = saved("kl", folder / "vae")
    pretrained = {"_target_": "dit.codec.pretrained.Pretrained", "folder": str(vae), **DEFAULTS, "tiling": TILING}
    return [pretrained, {"_target_": "dit.codec.tiny.Tiny", **files(folder), **SETTINGS, "tiling": TILING}]


def said_of(node: Any) -> str | None:
    """What is said of a node; None: it is built. Nothing may happen, and no other error be raised."""
    with watched() as seen:
        try:
            build(node, KINDS["codec"], "codec")
            said = None
        except Refused as error:
            said = str(error)
    assert not seen, seen
    if said is not None:
        assert "\n" not in said and said.isprintable() and len(said) < 600, said
    return said


def test_attacks_and_odd_values_under_every_key(tmp_path: Path) -> None:
    sentinel, draw = tmp_path / "sentinel", random.Random(0)
    everything = list(attacks(sentinel).values())
    for node in nodes(tmp_path):
        assert said_of(node) is None
        for place in places(node):
            for attack in draw.sample(everything, 4):
                assert said_of(replaced(node, place, attack)) is not None, (place, attack)
            for value in draw.sample(ODD, 2):
                said_of(replaced(node, place, value))
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/mem", "/", "..", "hub:../x", "hub:a/b/../../etc", "\x00"])
def test_files_that_are_no_weights(name: str, tmp_path: Path) -> None:
    pretrained, tiny = nodes(tmp_path)
    assert said_of({**pretrained, "folder": name}) is not None
    assert said_of({**tiny, "encoder": name}) is not None


@pytest.mark.parametrize("case", ["kl", "wan 2.1", "ltx", "cosmos", "allegro", "rae"])
def test_settings_that_nobody_would_choose(case: str, tmp_path: Path) -> None:
    """Built, which the weights must fit, or refused in one line, and soon."""
    folder, draw = saved(case, tmp_path / "vae"), random.Random(case)
    sound = json.loads((folder / CONFIG).read_text())
    kept = {name: each for name, each in attacks(tmp_path / "sentinel").items()
            if name not in ("object", "number key", "itself", "bomb")}  # fmt: skip
    values = [*ODD, *kept.values()]
    trials = [(key, value) for key in CASES[case][1] for value in draw.sample(values, 2)]
    for key, value in [*trials, ("quantization_config", {"quant_method": "bitsandbytes"}), ("_name_or_path", "x/y")]:
        (folder / CONFIG).write_text(json.dumps({**sound, key: value}))
        with watched() as seen:
            try:
                codec(folder)
            except (ValueError, FileNotFoundError) as error:
                assert "\n" not in str(error) and str(error).isprintable() and len(str(error)) < 1000, error
        assert not seen, (key, value, seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae"]
