"""Patterns of blocks: letters and counts."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.utils import instantiate

from dit.config.pattern import runs, short, spelled
from dit.config.renamed import current
from dit.engine import rundir
from dit.interop.presets import compose

LETTERS = "FSTDPE"


@pytest.mark.parametrize(
    ("pattern", "depth", "blocks"),
    [
        ("F", 3, "FFF"),
        ("ST", 5, "STSTS"),
        ("FST", 4, "FSTF"),
        ("D2P3", 5, "DDPPP"),
        ("D2P3", 10, "DDPPPDDPPP"),
        ("D47E", 48, "D" * 47 + "E"),
        ("S3T", 8, "SSSTSSST"),
        ("F1", 2, "FF"),
        ("D20P40", 60, "D" * 20 + "P" * 40),
    ],
)
def test_letters_and_counts(pattern: str, depth: int, blocks: str) -> None:
    assert "".join(spelled(pattern, depth, LETTERS)) == blocks


@pytest.mark.parametrize(
    ("pattern", "depth", "said"),
    [
        ("", 2, "pattern='' must be letters, each with a number"),
        ("20", 2, "pattern='20' must be letters"),
        ("2D", 2, "pattern='2D' must be letters"),
        ("D0P2", 2, "pattern='D0P2' must be letters, each with a number from 1 on"),
        ("D02", 2, "must be letters"),
        ("D*2", 2, "must be letters"),
        ("D²", 2, "unknown: ²"),
        ("FXY", 3, "pattern='FXY' must be of block templates F, S, T, D, P, E; unknown: X, Y"),
        ("D2P3", 6, "pattern='D2P3' is 5 blocks, and depth=6 is no multiple of that"),
        ("D9999999999P", 60, "is 10000000000 blocks, and depth=60"),
    ],
)
def test_mistakes_are_one_line(pattern: str, depth: int, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("*", r"\*")) as caught:
        spelled(pattern, depth, LETTERS)
    assert "\n" not in str(caught.value)


def test_one_spelling() -> None:
    spelled_again = {"F": "F", "F1": "F", "ST": "ST", "DDPP": "D2P2", "DD2P": "D3P", "D20P40": "D20P40"}
    assert {each: short(each) for each in spelled_again} == spelled_again
    assert runs("D12E") == [("D", 12), ("E", 1)]


def test_a_preset_with_counts_is_the_network_of_before() -> None:
    """Blocks and weights; a run that was begun with the letters written out goes on."""

    def net(pattern: str) -> dict[str, Any]:
        return compose("hunyuan_video_tiny", [f"net.pattern={pattern}", "net.depth=4"])

    keys = [list(instantiate(net(pattern), _convert_="all").state_dict()) for pattern in ("DDPP", "D2P2", "D4")]
    assert keys[0] == keys[1] != keys[2]
    assert not rundir.differences({"net": net("DDPP")}, {"net": net("D2P2")})
    assert rundir.differences({"net": net("DDPP")}, {"net": net("D4")})
    assert current({"pattern": "DDPP", "_target_": "x"})["pattern"] == "D2P2"
