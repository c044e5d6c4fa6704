"""The benchmark of whole pipelines, with networks that stay tiny: what it prints, refuses, and knows of."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from dit.interop.diffusers import adopted, net_config
from dit.interop.published import PIPELINES
from scripts import bench
from scripts.twins import whole
from scripts.twins.pipelines import TWINS

QUICK = ("device=cpu", "repeats=1", "warmup=0", "steps=2", "depth=1", "tokens=1")


PUBLISHED = dict(whole.SIZES)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {name: whole.Size({}, size.scaled) for name, size in PUBLISHED.items()}
    monkeypatch.setattr(whole, "SIZES", sizes)


def rows(said: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells}


def test_both_make_the_same_video_and_the_parts_of_its_time_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["pipeline=wan", *QUICK, "tokens=40", "repeats=2"])
    said = capsys.readouterr().out
    assert "9 frames of 64x96, 72 video tokens" in said, "the smallest clip with 40"
    apart, grey = (float(each) for each in re.search(r"latents (\S+) of the largest, pixels (\S+) grey", said).groups())  # type: ignore[union-attr]
    assert 0 < apart < 1e-5 and grey < 0.1
    found = rows(said)
    subjects = ["ours", "ours, passes in turn", "diffusers: WanPipeline"]
    assert [name for name in found if name in subjects] == subjects
    for name in subjects:
        seconds, processor, *shares = found[name]
        assert float(seconds.split()[0]) > 0 and float(processor.split()[0]) > 0
        parts = [float(share.removesuffix(" %")) for share in shares]
        assert len(parts) == 4 and all(share > 0 for share in parts[:3]) and sum(parts) == pytest.approx(100, abs=0.3)
    wall, processor, *_ = found["ours / diffusers, turn by turn"]
    assert float(wall.split()[0]) > 0 and float(processor.split()[0]) > 0


def test_another_video_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    enlarge = whole.enlarged

    def spoiled(*arguments: Any) -> Any:
        twin, theirs = enlarge(*arguments)
        with torch.no_grad():
            theirs.transformer.proj_out.weight[0] += 0.1
        return twin, theirs

    monkeypatch.setattr(whole, "enlarged", spoiled)
    with pytest.raises(SystemExit, match="pipeline=wan: these are not the same video, so nothing is timed"):
        bench.main(["pipeline=wan", *QUICK])
    said = capsys.readouterr().out
    assert "largest difference" in said and "|" not in said


@pytest.fixture(scope="module")
def networks_of_twins() -> dict[str, list[Any]]:
    made = {name: twin.build() for name, twin in TWINS.items()}
    assert {type(each).__name__ for each in made.values()} >= PIPELINES.keys()
    return {name: whole.networks(each) for name, each in made.items()}


def test_every_pipeline_that_is_published_here_is_known_by_its_network(
    networks_of_twins: dict[str, list[Any]],
) -> None:
    for name, nets in networks_of_twins.items():
        assert nets, name
        for net in nets:
            assert type(net).__name__ in whole.SIZES, name


def test_every_network_is_one_of_ours_in_its_published_size(
    networks_of_twins: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "SIZES", PUBLISHED)
    seen: dict[str, dict[str, Any]] = {}
    for name, nets in networks_of_twins.items():
        for net in nets:
            settings = {"_class_name": type(net).__name__, **whole.settings_in_size(net, 2, 3)}
            seen.setdefault(str(sorted(settings.items(), key=str)), settings)
            assert settings["num_layers"] == 3, name
    assert len(seen) >= len(PUBLISHED)
    for settings in seen.values():
        net_config(adopted(settings))  # raises where one setting does not fit another


def test_a_class_that_hands_the_given_video_back_is_compared_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["pipeline=skyreels_v2_forcing_video", *QUICK])
    said = capsys.readouterr().out
    assert float(re.search(r"pixels (\S+) grey", said).group(1)) < 0.1  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["ltx_image", "dit", "allegro"])
def test_pictures_classes_and_what_is_not_decoded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main([f"pipeline={name}", *QUICK])
    found = rows(capsys.readouterr().out)
    assert "ours / diffusers, turn by turn" in found
    assert (found["ours"][4] == "0.0 %") == (name == "allegro"), "the codec's share"


def test_one_that_fails_does_not_cost_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(settings: Any, arguments: Any) -> tuple[str, str]:
        if settings.pipeline == "ltx":
            raise SystemExit("these are not the same video")
        return "0.8", "0.7"

    monkeypatch.setattr(whole, "compare", compare)
    with pytest.raises(SystemExit, match="failed: ltx$"):
        bench.main(["pipeline=all", *QUICK])
    found = rows(capsys.readouterr().out)
    assert found["wan"] == ["0.8", "0.7"] and "ltx" not in found and len(found) == len(TWINS) - 1 + 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["pipeline=sora"], "pipeline=sora is not a pipeline that is known; there are wan, wan22"),
        (["pipeline=wan", "precision=fp8"], "precision=fp8 is none of fp32, bf16"),
        (["pipeline=wan", "net.depth=2"], "unknown setting 'net.depth'; there are pipeline, steps"),
        (["pipeline=wan", "scale=large"], "scale=large must be a number"),
        (["pipeline=wan", "device=gpu9"], "device=gpu9 is no device"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        bench.main(arguments)


def test_pictures_grow_wherever_they_are() -> None:
    @dataclass(frozen=True)
    class Task:
        image: Any
        strength: float

    small = Image.new("RGB", (4, 2))
    grown = whole.in_size({"image": [small], "task": Task((small,), 0.5)}, 3)
    assert grown["image"][0].size == (12, 6) and grown["task"] == replace(grown["task"], strength=0.5)
    assert grown["task"].image[0].size == (12, 6)


def test_parts_are_timed_by_what_they_are_called_with() -> None:
    class Slow(nn.Module):
        def forward(self, x: int) -> int:
            return x + 1

    net, asked = Slow(), []
    subject = whole.Subject("x", lambda: asked.append(net(1)), [("network", net, "forward")], torch.device("cpu"))
    subject.turn(False)
    assert asked == [2] and not subject.wall
    subject.turn(True)
    assert len(subject.wall) == 1 and 0 < subject.took["network"][0] <= subject.wall[0]
    assert "forward" not in vars(net), "the method is its class's again"
