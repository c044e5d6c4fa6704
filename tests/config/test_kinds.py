"""What a constructor's annotations refuse and what they let through, before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import hydra
import pytest
from omegaconf import OmegaConf

from dit.codec.base import Codec
from dit.config.build import build
from dit.config.kinds import Misfit, fitted
from dit.config.limits import Count, NonNegative, Positive, Range, Share
from dit.entry import CONFIGS
from dit.net.backbone import Backbone

NAN, INF = float("nan"), float("inf")
PIXEL = {"_target_": "dit.codec.pixel.PixelCodec", "scale": 1.0}
LATER = {"_target_": PIXEL["_target_"], "_partial_": True}
PATH = {"_target_": "dit.diffusion.path.Linear"}


class Encodes(Protocol):
    def encode(self, pixels: Any) -> Any: ...


class Axes(TypedDict):
    f: float
    h: float


@pytest.mark.parametrize(
    "value, hint, taken",
    [
        (3, int, 3),
        (1e4, int, 10000),  # as one types it
        (3, float, 3),
        (True, bool, True),
        (1, bool, True),
        (5, str, "5"),  # name=5
        (None, int | None, None),
        ("auto", int | str, "auto"),
        (2, int | str, 2),
        ([1, 2], list[int], [1, 2]),
        ([1, 2.0], Sequence[int], [1, 2]),
        ([0.9, 1], tuple[float, float], [0.9, 1]),
        ([], tuple[int, ...], []),
        ({1: 0.5, "2": 1}, Mapping[int, float], {1: 0.5, "2": 1}),
        ({"f": 1, "h": 2.5}, Axes, {"f": 1, "h": 2.5}),
        ("tanh", Literal["none", "tanh"], "tanh"),
        (PIXEL, Codec, PIXEL),
        ({"a": PIXEL, "b": None}, dict[str, Codec | None], {"a": PIXEL, "b": None}),
        (LATER, Callable[[], Codec], LATER),
        (PIXEL, Encodes, PIXEL),
        (0, NonNegative, 0),
        (1, Share, 1),
        (INF, float | None, None),
        ([1, "x"], Any, [1, "x"]),
    ],
)
def test_what_fits_comes_back(value: Any, hint: Any, taken: Any) -> None:
    if value == INF:
        with pytest.raises(Misfit, match="must be a finite number"):
            fitted(value, hint, "lr")
        return
    found = fitted(value, hint, "key")
    assert found == taken and type(found) is type(taken)


@pytest.mark.parametrize(
    "value, hint, said",
    [
        ("two", int, "key=two is not a whole number"),
        (1.5, int, "key=1.5 is not a whole number"),
        (True, int, "key=true is not a whole number"),
        ("x", float | None, "key=x is not a number or null"),
        (None, float, "key=null is not a number"),
        (NAN, float, "key=nan must be a finite number"),
        (-INF, float, "key=-inf must be a finite number"),
        (10**30, int, f"key={10**30} is more than can be counted"),
        ([1], str, "key=[1] is not a text"),
        (None, str, "key=null is not a text"),
        ("yes", bool, "key=yes is not true or false"),
        (3.7, Sequence[int], "key=3.7 is not a list [...]"),
        ([1, "x"], list[int], "key=[1, x]: x is not a whole number"),
        ([[1]], list[int], "key=[[1]]: [1] is not a whole number"),
        ([0.9], tuple[float, float], "key=[0.9] must have 2 entries, not 1"),
        ({"green": 3.7}, Mapping[str, Sequence[int]], "key.green=3.7 is not a list [...]"),
        ({"green": [1, "y"]}, Mapping[str, Sequence[int]], "key.green=[1, y]: y is not a whole number"),
        ({"f": 1}, Axes, "key.h is missing: key needs it"),
        ({"f": 1, "h": 1, "q": 1}, Axes, "key.q: key takes no q; there are f, h"),
        ("", Literal["none", "tanh"], "key='' is not one of none, tanh"),
        (5, Callable[[int], int], "key=5 is not a part with a _target_ and _partial_: true (int)"),
        (
            [[1]],
            Callable[[int], int] | None,
            "key=[[1]] is not a part with a _target_ and _partial_: true (int) or null",
        ),
        (
            {"a": 1},
            dict[str, Callable[[], int] | None],
            "key.a=1 is not a part with a _target_ and _partial_: true (int) or null",
        ),
        (0, Count, "key=0 must be at least 1"),
        (0.0, Positive, "key=0.0 must be above 0"),
        (1.5, Share, "key=1.5 must be at least 0 and at most 1"),
        ({**PIXEL, "scale": "x"}, Any, "key.scale=x is not a number"),
        ({**PIXEL, "sclae": 1}, Any, "key.sclae: PixelCodec takes no sclae; did you mean scale"),
        ({**PIXEL, "_partial_": "auto"}, Any, "key._partial_=auto is not true or false"),
        ({"_target_": PIXEL["_target_"]}, Any, "key.scale is missing: PixelCodec needs it"),
        (PIXEL, int | Backbone, "key would be a PixelCodec, which does not go there; a whole number or a part with a"),
        (LATER, Codec, "key would be a call of PixelCodec (_partial_: true), which does not go"),
        (PIXEL, Callable[[], Codec], "key would be a PixelCodec, which does not go there; a part with a _target_ and"),
        (PATH, Encodes, "key would be a Linear, which does not go there; a part with a _target_ (Encodes) does"),
        ({**PATH, "_partial_": True}, Callable[[], Codec], "key would be a call of Linear"),
        ({"parts": [{**PIXEL, "scale": None}]}, Any, "key.parts.scale=null is not a number"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, hint: Any, said: str) -> None:
    with pytest.raises(Misfit) as caught:
        fitted(value, hint, "key")
    assert str(caught.value).startswith(said)


def test_infinity_where_it_means_something() -> None:
    assert INF in Range(above=0, infinite=True) and INF not in Range(above=0) and 0 not in Range(above=0)


@pytest.mark.parametrize(
    "override, said",
    [
        ("data.val.colours.green=3.7", "data.val.colours.green=3.7 is not a list [...]"),
        (
            "net.vectors.label=[[1]]",
            "net.vectors.label=[[1]] is not a part with a _target_ and _partial_: true (Module) or null",
        ),
        ("net.position.scale.h=x", "net.position.scale.h=x is not a number"),
        ("net.mlp.ratio=inf", "net.mlp.ratio=inf must be"),
        ("net.depth=two", "net.depth=two is not a whole number"),
        ("trainer.gradient_clip_norm=[1]", "trainer.gradient_clip_norm=[1] is not a number or null"),
        ("optim.lr=nan", "optim.lr=nan must be"),
        ("net.depth=1e3", None),
        ("optim.lr=1", None),
    ],
)
def test_values_of_the_demo(override: str, said: str | None) -> None:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config: Any = OmegaConf.to_container(hydra.compose("train", ["experiment=demo", override]), resolve=True)
    if said is None:
        fitted(config)
    else:
        with pytest.raises(Misfit) as caught:
            fitted(config)
        assert str(caught.value).startswith(said)


def test_build_makes_parts_inside_first_and_leaves_the_rest() -> None:
    norm = {"_target_": "dit.net.layers.RMSNorm", "_partial_": True, "eps": 1, "affine": True}
    made = build({"pixel": PIXEL, "later": norm})
    assert type(made["pixel"]).__name__ == "PixelCodec"
    assert made["later"](8).weight.shape == (8,)
    assert build(["${seed}", None, 3]) == ["${seed}", None, 3]


def test_a_text_with_a_dollar_is_a_text() -> None:
    node = {"_target_": "dit.sampling.tasks.ImageToVideo", "image": "${oc.env:HOME}/a.png"}
    assert build(node).image == "${oc.env:HOME}/a.png"


def test_a_target_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(
        ValueError, match="dit.net.nothing.Here is not there to be built .No module named 'dit.net.noth"
    ):
        build({"_target_": "dit.net.nothing.Here"})


def test_what_a_module_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking.py").write_text("import a_package_that_nobody_has\nclass Part: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="a_package_that_nobody_has"):
        build({"_target_": "lacking.Part"})
