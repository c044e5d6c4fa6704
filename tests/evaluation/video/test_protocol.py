"""All that decides a score is in its protocol, as the plain values that reports hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dit.evaluation.video.protocol import Protocol, Score
from dit.scores import own_protocol

PLAIN = Protocol("val", 64, 64, 16, 32, 32, 8.0, "bilinear to 64x64, with antialias", "random", "ab" * 32)


@pytest.mark.parametrize(
    "changed",
    [
        {"clips": 128}, {"reference": 128}, {"split": "test"}, {"frames": 8}, {"height": 64}, {"fps": None},
        {"resize": ""}, {"sha256": "cd" * 32}, {"network": "i3d"}, {"settings": (("samples", 3),)},
    ],
)  # fmt: skip
def test_whatever_changes_makes_another_protocol(changed: dict[str, object]) -> None:
    one, other = ({"fvd": each.as_dict()} for each in (PLAIN, replace(PLAIN, **changed)))  # type: ignore[arg-type]
    assert own_protocol(one, "fvd") != own_protocol(other, "fvd") and own_protocol(one, "kvd") == ""


def test_what_there_is_none_of_is_left_out() -> None:
    bare = Protocol("val", 8, 0, 16, 32, 32, None, settings=(("samples", 3),))
    assert bare.as_dict() == {"split": "val", "clips": 8, "frames": 16, "height": 32, "width": 32, "samples": 3}
    assert str(Score("psnr", 21.0, 20.0, 22.0, bare, True, "dB")) == "21 [20, 22]"
    assert str(Score("psnr", 21.0, None, None, bare, True, "dB")) == "21"
