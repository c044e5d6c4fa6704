"""The recipes of docs/extending.md, taken from the page itself: their code builds, runs and passes its own tests."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from hydra import compose as compose_config
from hydra import initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

import dit.evaluation.suites
import dit.net.position
from dit.config.build import build
from dit.engine import run
from dit.evaluation.harness.run import evaluate
from dit.interop.presets import CONFIGS, compose
from dit.net import blocks, runner
from dit.net.coordinates import Coordinates
from dit.sampling import record, schedule
from dit.sampling.ranks import Ranks
from tests.evaluation.checkpoints import make_run
from tests.net import test_net_position, test_net_runner
from tests.sampling import test_levels_of_frames
from tests.sampling.test_pipeline import pipeline
from tests.test_configs import mismatch, nodes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
TINY = ["net.width=48", "net.heads=4", "net.depth=2", "net.patch=[2,2,1]", "net/kernel=sdpa", "net.pattern=FM"]


def under(section: str) -> str:
    """What the page says under a heading."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M)
    return text


def code(language: str, section: str) -> list[str]:
    """The blocks of code in one language under a heading."""
    return re.findall(rf"```{language}\n(.*?)```", under(section), re.S)


def command(section: str) -> list[str]:
    """The overrides of the last training command under a heading."""
    return re.findall(r"^python train.py (.*)$", under(section), re.M)[-1].split()


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The demo's network with the page's position and block, and their code where the page puts it."""
    position, block = code("python", "A position embedding")[0], code("python", "A block")[0]
    module = ModuleType("dit.net.position.fourier")
    exec(position, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(dit.net.position, "fourier", module, raising=False)
    names = dict(vars(blocks))
    exec(block, names)
    monkeypatch.setattr(blocks, "MLPFirst", names["MLPFirst"], raising=False)
    value, letter = (yaml.safe_load(code("yaml", name)[0]) for name in ("A position embedding", "A block"))
    plain = compose("demo", TINY)
    return {**plain, "position": value, "templates": {**plain["templates"], **letter}}


def test_the_recipes_build_and_run(config: dict[str, Any]) -> None:
    assert not [said for _, node in nodes(config) if (said := mismatch(node))]
    net = instantiate(config, _convert_="all")
    assert [type(block).__name__ for block in net.blocks] == ["Serial", "MLPFirst"]
    torch.manual_seed(0)
    for parameter in net.parameters():  # zero gates would hide what they multiply
        torch.nn.init.normal_(parameter, std=0.1)
    x, t = torch.randn(2, 3, 4, 6, 5), torch.rand(2, 4)
    cond = {"pooled": torch.randn(2, config["text_width"]), "given": torch.zeros(2, 1, 4, 6, 5)}
    net(x, t, cond).square().sum().backward()
    for name, parameter in [*net.position.named_parameters(), *net.blocks[1].named_parameters()]:
        assert parameter.grad.abs().max() > 0, f"{name} does nothing"


def test_the_recipes_own_tests_pass(config: dict[str, Any]) -> None:
    """And fail for positions that count rows as columns."""
    right = dit.net.position.fourier.FourierFeatures

    class Turned(right):  # type: ignore[misc, valid-type]
        def add(self, x: Tensor, coordinates: Coordinates) -> Tensor:
            return super().add(x, Coordinates.of_clip(tuple(coordinates.grids[0][i] for i in (0, 2, 1))))

    def own_test(tested: type) -> None:
        names = {**vars(test_net_position), "FourierFeatures": tested}
        exec(code("python", "A position embedding")[2], names)
        names["test_fourier_features_tell_frames_rows_and_columns_apart"]()

    own_test(right)
    with pytest.raises(AssertionError, match="not close"):
        own_test(Turned)


LESS = (
    "trainer.max_steps=2", "data.batch_size=2", "data.train.num_clips=4", "data.val.num_clips=2", "logger=none",
    "preview=none", "net.width=48", "net.heads=4", "callbacks.metrics.every=1", "trainer.accelerator=cpu",
)  # fmt: skip


def trained(
    section: str, name: str, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[ModuleType, list[dict[str, str]]]:
    """Follows a recipe: its class as module `name`, its value in `group` of a folder of the reader's, its command with
    less to do. Returns the module and the rows of metrics.csv."""
    monkeypatch.chdir(tmp_path)
    parent, _, last = name.rpartition(".")
    module = ModuleType(name)
    exec(code("python", section)[0], vars(module))
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules[parent], last, module, raising=False)
    value = tmp_path / "own" / group / f"{last}.yaml"
    value.parent.mkdir(parents=True)
    value.write_text(code("yaml", section)[0])
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        given = compose_config("train", [*command(section), *LESS, *more, f"hydra.searchpath=[file://{tmp_path}/own]"])
    run.train(OmegaConf.to_container(given, resolve=True))  # type: ignore[arg-type]
    with (tmp_path / "runs" / given.name / "metrics.csv").open() as file:
        return module, list(csv.DictReader(file))


def test_the_recipes_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value builds, solvers keep their order under it, it samples by the page's command, a sample's JSON builds it
    again; its own test passes, and fails for one that begins with the others."""
    names = dict(vars(schedule))
    exec(code("python", "A schedule")[0], names)
    made = names["KeyFrames"]
    monkeypatch.setattr(schedule, "KeyFrames", made, raising=False)
    value = tmp_path / "own" / "schedule" / "key_frames.yaml"
    value.parent.mkdir(parents=True)
    value.write_text(code("yaml", "A schedule")[0])
    asked = re.findall(r"^python sample.py (\S+ \S+ \S+)", under("A schedule"), re.M)[0].split()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        given = compose_config("sample", [*asked, f"hydra.searchpath=[file://{tmp_path}/own]"])
    node = OmegaConf.to_container(given.schedule)
    assert not mismatch(node)
    chosen = instantiate(given.schedule)
    assert chosen == made(None, 1, 2)

    entry = code("python", "A schedule")[1]
    (matrix,) = eval(f"{{{entry}}}", {"KeyFrames": made}).values()
    for solver, order in test_levels_of_frames.SOLVERS.values():
        between = test_levels_of_frames.Between(0.95, 0.1)
        found = test_levels_of_frames.order(solver, test_levels_of_frames.PATHS["linear"], matrix, between, 0)
        assert order - 0.2 < found < order + 0.6

    maker = pipeline(tmp_path, schedule=chosen)
    wanted = maker.prepare([record.Request("red", "", 3)])
    assert len(maker(["red"], [3]).latents) == 1 and len(wanted.levels[0]) == 2 * maker.settings.num_steps + 1
    again = record.build(maker.facts(wanted)[0]["schedule"], record.PARTS["schedule"], "schedule")
    assert again == maker.settings.schedule == made(schedule.Shifted(3.0), 1, 2)

    class Turned(made):  # type: ignore[misc, valid-type]
        def begin(self, num_steps: int, groups: int) -> Tensor:
            return num_steps - super().begin(num_steps, groups)

    for tested in (made, Turned):
        own = {**vars(test_levels_of_frames), "KeyFrames": tested}
        exec(code("python", "A schedule")[2], own)
        if tested is made:
            own["test_key_frames_come_first"]()
        else:
            with pytest.raises(AssertionError):
                own["test_key_frames_come_first"]()


def test_the_recipes_encoder_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the page's own command, with its file in a folder of its own."""
    module, rows = trained("An encoder to align with", "dit.recipes.edges", "alignment/encoder", tmp_path, monkeypatch)
    losses = [float(row["train/alignment"]) for row in rows]
    assert len(losses) == 2 and all(0 < loss < 2 for loss in losses)

    pixels = -torch.ones(1, 3, 4, 8, 8)
    pixels[:, :, 2:, 4:] = 1.0  # from the third frame on the lower half is white
    f, h, w = module.Edges(patch=4)(pixels)[0]
    assert f.argmax() // 4 == 1 and f[1, 1].min() == 2 and f[[0, 2, 3]].max() == 0
    assert h[2:, 0].min() == 0.5 and h[:2].max() == 0 and h[:, 1].max() == 0 and w.max() == 0


def test_the_training_recipe_trains_near_its_anchor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        first = compose_config("train", ["experiment=demo", "name=mine", *LESS])
    monkeypatch.chdir(tmp_path)
    run.train(OmegaConf.to_container(first, resolve=True))  # type: ignore[arg-type]
    _, rows = trained("A training recipe", "dit.recipes.anchored", "recipe", tmp_path, monkeypatch)
    away = [float(row["train/away"]) for row in rows]
    assert away[0] == 0 and away[1] > 0  # it begins there, and moves
    began = torch.load("runs/mine/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    beside = torch.load("runs/tuned/checkpoints/frozen.pt", weights_only=True)["state_dict"]
    assert {key.split(".")[0] for key in beside} == {"anchor"}
    assert all(torch.equal(tensor, began[f"net.{key.removeprefix('anchor.')}"]) for key, tensor in beside.items())


def test_the_recipes_callback_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, more = "dit.engine.callbacks.part_norms", ("callbacks.part_norms.every=1", "trainer.gradient_clip_norm=0.01")
    _, rows = trained("A callback", name, "callbacks", tmp_path, monkeypatch, *more)
    norms = [{key: float(value) for key, value in row.items() if key.startswith("grad_norm/")} for row in rows]
    assert len(norms) == 2 and {"grad_norm/blocks", "grad_norm/final"} <= norms[1].keys()
    for row, parts in zip(rows, norms, strict=True):  # of the network alone, and not clipped
        assert 0.01 < sum(norm**2 for norm in parts.values()) ** 0.5 <= float(row["train/grad_norm"]) * 1.001


def test_the_recipes_runners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of a run trains by the page's own command, and passes its own test; the other adds what it is given."""
    module, rows = trained("A runner", "dit.net.host_memory", "net/checkpointing", tmp_path, monkeypatch)
    assert len(rows) == 2
    names = {**vars(test_net_runner), "HostMemory": module.HostMemory}
    exec(code("python", "A runner")[1], names)
    exec(code("python", "A runner")[2], names)
    net = small_network()
    names["test_host_memory_changes_no_gradient"](lambda: net)

    x, t, cond = test_net_runner.inputs(net)
    added = {1: torch.randn(2, 30, net.width, dtype=x.dtype, requires_grad=True)}
    with runner.tapped(net, 1) as tap:
        plain = net(x, t, cond)
    with runner.running(net, names["Control"](net.runner, {1: 0 * added[1]})):
        assert torch.equal(net(x, t, cond), plain)
    with runner.running(net, names["Control"](net.runner, added)), runner.tapped(net, 1) as controlled:
        net(x, t, cond).sum().backward()
    assert torch.equal(controlled.tokens, tap.tokens + added[1]) and added[1].grad is not None


def small_network() -> Any:
    """With random weights, for the inputs of `test_net_runner`."""
    net = instantiate(compose("demo", [*TINY, "net.pattern=F", "net/text=none", "net/pooled=none"]), _convert_="all")
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.double()


def test_the_recipes_codec_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, rows = trained("A codec", "dit.codec.blocks", "codec", tmp_path, monkeypatch)
    assert len(rows) == 2
    codec, pixels = module.Blocks(4, 0.5), torch.rand(1, 3, 2, 8, 12)
    assert codec.encode(pixels).shape == (1, codec.channels, *codec.latent_shape(2, 8, 12))
    torch.testing.assert_close(codec.decode(codec.encode(pixels)), pixels)
    with pytest.raises(ValueError, match="height=6 is not 4k for Blocks"):
        codec.encode(pixels[..., :6, :])


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:dit|configs|tests|scripts|docs)/[\w./]+\.(?:py|yaml))`", PAGE.read_text())
    written_by_the_reader = {
        "dit/net/position/fourier.py", "configs/net/position/fourier.yaml",
        "dit/net/host_memory.py", "configs/net/checkpointing/host_memory.yaml",
        "dit/recipes/edges.py", "configs/alignment/encoder/edges.yaml",
        "dit/recipes/anchored.py", "configs/recipe/anchored.yaml",
        "dit/engine/callbacks/part_norms.py", "configs/callbacks/part_norms.yaml",
        "dit/signals/motion.py", "dit/net/strength.py", "configs/signals/motion.yaml",
        "configs/schedule/key_frames.yaml",
        "dit/evaluation/suites/moving.py", "configs/suite/moving.yaml",
        "dit/codec/blocks.py", "configs/codec/blocks.yaml",
    }  # fmt: skip
    absent = {name for name in named if not (PAGE.parents[1] / name).is_file()}
    assert named and absent == written_by_the_reader


def test_the_recipes_positions_keep_their_precision_in_bfloat16(config: dict[str, Any]) -> None:
    """Angles of far places in bfloat16, or by a product that autocast takes there, are off by several percent."""
    torch.manual_seed(0)
    position = instantiate(config["position"])(48, 12)
    x, grid = torch.zeros(1, 8 * 24 * 24, 48), Coordinates.of_clip((8, 24, 24))
    wanted = position.add(x, grid)
    with torch.autocast("cpu", torch.bfloat16):
        found = position.add(x.bfloat16(), grid)
    assert found.dtype is torch.bfloat16
    assert (found.float() - wanted).norm() < 0.01 * wanted.norm()


def test_the_recipes_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value composes beside the others, and it measures a checkpoint by the page's command."""
    module = ModuleType("dit.evaluation.suites.moving")
    exec(code("python", "A suite")[0], vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(dit.evaluation.suites, "moving", module, raising=False)
    value = tmp_path / "own" / "suite" / "moving.yaml"
    value.parent.mkdir(parents=True)
    value.write_text(code("yaml", "A suite")[0])
    asked = re.findall(r"^python scripts/evaluate.py (.*)$", under("A suite"), re.M)[0].split()
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/demo"))
    more = ["weights=raw", "device=cpu", "num_steps=1", f"hydra.searchpath=[file://{tmp_path}/own]"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        both = compose_config("evaluate", ["ckpt=any", "suite=[world,moving]", *more])
        given = compose_config("evaluate", [*asked, *more])
    assert list(both.suite) == ["world", "moving"] and not mismatch(
        OmegaConf.to_container(given.suite.moving, resolve=True)
    )
    said: list[str] = []
    ask = build(OmegaConf.to_container(given, resolve=True))
    outcome = evaluate(ask, Ranks(0, 1), lambda error: str(error), said.append, said.append)
    assert outcome.measured == 1 and "mean difference of frames (of 2)" in said[-1]
    assert len(list(Path("runs/demo/samples/001").glob("*.mp4"))) == 2
