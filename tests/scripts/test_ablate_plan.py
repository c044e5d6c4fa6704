"""What an ablation is asked for, and what is planned of it: variants, steps of equal budgets, mistakes in a line."""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml

from data.batch import Shape
from data.sampler import Draw
from dit.engine import run as training
from dit.entry import explain
from dit.foreign import read_yaml
from dit.report.assemble import assemble
from dit.runfiles import CONFIG
from scripts import arguments
from scripts.ablation import asked, planning
from scripts.ablation.asked import Asked, Variant, evaluation, parsed
from scripts.ablation.local import is_trained, todo
from scripts.ablation.plan import Plan, described
from scripts.ablation.results import collect
from tests.engine.runs import changed

EXAMPLE = "experiment=demo vary='net.depth=2,4' budget=1e12"
BUDGET = "budget=1e12"


def variants(*typed: str) -> dict[str, tuple[str, ...]]:
    return {each.label: each.overrides for each in parsed([*typed, BUDGET], EXAMPLE).variants}


def test_axes_are_multiplied() -> None:
    assert variants("vary=net/position=rope3d,sincos") == {
        "position.rope3d": ("net/position=rope3d",),
        "position.sincos": ("net/position=sincos",),
    }
    two = variants("vary=net.depth=2,4 net/mlp=gelu,swiglu", "experiment=demo")
    assert list(two) == ["depth.2-mlp.gelu", "depth.2-mlp.swiglu", "depth.4-mlp.gelu", "depth.4-mlp.swiglu"]
    assert two["depth.4-mlp.gelu"] == ("net.depth=4", "net/mlp=gelu")
    assert two == variants("vary=net.depth=2,4", "vary=net/mlp=gelu,swiglu")


def test_values_that_hold_commas() -> None:
    assert variants("vary=net.patch=[1,4,4],[2,8,8]") == {
        "patch.1_4_4": ("net.patch=[1,4,4]",),
        "patch.2_8_8": ("net.patch=[2,8,8]",),
    }
    assert list(variants("vary=net.depth=range(2,4)").values()) == [("net.depth=2",), ("net.depth=3",)]
    assert variants("vary=init_from=runs/a,runs/b")["init_from.runs_b"] == ("init_from=runs/b",)
    of_paths = variants("""vary=init_from=choice("runs/a, b", "runs/c") net.depth=2,3""")
    assert list(of_paths.values())[0] == ("init_from=runs/a, b", "net.depth=2") and len(of_paths) == 4
    assert list(variants("""vary=text.words='a b','c'""").values()) == [("text.words='a b'",), ("text.words='c'",)]
    assert {"solver.euler", "solver.heun"} <= set(variants("vary=solver=glob(*)"))


def test_named_variants_of_several_overrides() -> None:
    named = ("variant.base=", "variant.wide=net.width=256 optim.lr=0.01")
    assert variants(*named) == {"base": (), "wide": ("net.width=256", "optim.lr=0.01")}
    texts = variants("variant.a=data.root='my clips' preview.prompts=['a b',c]", "variant.b=")["a"]
    assert texts == ("data.root=my clips", "preview.prompts=['a b',c]")
    assert list(variants(*named, "vary=net.depth=2,4")) == [
        "depth.2-base",
        "depth.2-wide",
        "depth.4-base",
        "depth.4-wide",
    ]


def test_names_and_seeds() -> None:
    request = parsed(["experiment=demo", "vary=net/position=rope3d,sincos", BUDGET, "first_seed=5"], EXAMPLE)
    assert request.name == "demo-position" and list(request.seeds) == [5, 6, 7]
    assert request.baseline == "position.rope3d" and request.overrides == ("experiment=demo",)
    taken_out = ["~data.train.colours", "+data.train.colours={white:[250,250,250]}"]
    assert parsed([*taken_out, "vary=net.depth=2,4", BUDGET], EXAMPLE).overrides == tuple(taken_out)
    other = parsed(["variant.a=", "variant.b=net.depth=2", BUDGET, "baseline=b", "name=mine"], EXAMPLE)
    assert other.name == "mine" and other.baseline == "b"
    assert parsed(["variant.a=", "variant.b=net.depth=2", BUDGET], EXAMPLE).name == "variants"


def test_every_setting_is_told_by_help() -> None:
    told = arguments.usage(asked.__file__, "About.")
    assert all(f"\n  {name}=" in told for name in Asked.__dataclass_fields__)


@pytest.mark.parametrize(
    "typed, said",
    [
        (["vary=net.depth=2,4", BUDGET, "seeds=1"], "seeds=1 gives no interval"),
        (["vary=net.depth=2,4", BUDGET, "seeds=0"], "seeds=0 gives no interval"),
        (["vary=net.depth=2,4", BUDGET, "seeds=many"], "seeds=many must be a whole number"),
        (["vary=net.depth=2", BUDGET], "vary=net.depth=2 has one value, 2; give at least two: net.depth=first,second"),
        (["vary=net.depth", BUDGET], "vary=net.depth names no values"),
        (["vary=net.depth=2,2", BUDGET], "vary=net.depth=2,2 has 2 twice"),
        (["vary=seed=1,2", BUDGET], "vary=seed=1,2: seed cannot vary: seeds=3"),
        (["vary=net.depth=[2,4", BUDGET], "'net.depth=[2,4' has a quote or a bracket that is not closed"),
        (["vary=net.depth=2,=4", BUDGET], "cannot read net.depth=2,=4"),
        (["experiment=demo", BUDGET], "nothing varies"),
        (["variant.wide=net.width=256", BUDGET], "is the only variant; another one, such as variant.base=''"),
        (["variant.wide", "variant.base=", BUDGET], "variant.wide is not variant.NAME="),
        (["variant.wide=256", "variant.base=", BUDGET], "variant.wide: '256' is not key=value"),
        (["variant.a=", "variant.a=net.depth=2", BUDGET], "two variants are called a"),
        (["vary=net.depth=2,4"], "give either budget=2e13, of the whole ablation, or budget_each=3e12"),
        (["vary=net.depth=2,4", BUDGET, "budget_each=1"], "both are given"),
        (["vary=net.depth=2,4", "budget=-1"], "the budget is -1.0, and must be above 0"),
        (["vary=net.depth=2,4", "budget=nan"], "the budget is nan, and must be above 0"),
        (["vary=net.depth=2,4", BUDGET, "budget_in=hours"], "budget_in=hours is none of flops, tokens, steps"),
        (["vary=net.depth=2,4", BUDGET, "baseline=depth.3"], "baseline=depth.3 is no variant; there are depth.2, "),
        (["vary=net.depth=2,4", BUDGET, "trainer.max_steps=9"], "trainer.max_steps=9 is not for a run alone"),
        (["vary=net.depth=2,4", BUDGET, "seed=9"], "seed=9 is not for a run alone: seeds=3 first_seed=0"),
        (["vary=net.depth=2,4", BUDGET, "jobs=0"], "jobs=0 must be at least 1"),
        (["vary=net.depth=2,4", BUDGET, "hydra.launcher.partition=a"], "is for a launcher, and none is named"),
        (["vary=net.depth=2,4", BUDGET, "--fast"], "'--fast' is not name=value"),
    ],
)  # fmt: skip
def test_mistakes_of_a_command(typed: list[str], said: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: B017 - which kind is for `explain` to say
        parsed(typed, EXAMPLE)
    line = explain(caught.value, "train")
    assert line is not None and "\n" not in line and said in line


def test_what_is_evaluated() -> None:
    assert evaluation("auto", is_world=True) == () and evaluation("auto", is_world=False) is None
    assert evaluation("none", is_world=True) is None
    assert evaluation("num_prompts=8 seed=1", is_world=False) == ("num_prompts=8", "seed=1")
    for wrong in ("fast", "ckpt=runs/a"):
        with pytest.raises(ValueError, match="evaluate="):
            evaluation(wrong, is_world=True)


# -- plans of real variants

TINY = (
    "experiment=demo", "net.width=32", "net.heads=2", "net.text_width=16", "text.width=16", "text.depth=1",
    "text.heads=2", "data.batch_size=4", "data.val.num_clips=2", "data.val_batch_size=2", "trainer.accelerator=cpu",
    "callbacks.progress.seconds=1000", "lr_schedule.warmup_steps=1",
)  # fmt: skip
REAL = (*TINY, "vary=net.depth=1,2", "budget=1.5e9", "seeds=2", "name=real")


def planned(*typed: str) -> Plan:
    return planning.plan(parsed(typed, EXAMPLE), "python scripts/ablate.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def made(folder: Path) -> Plan:
    return planned(*REAL)


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_steps_follow_from_what_a_step_costs(made: Plan) -> None:
    """A step of the deeper network takes more FLOPs, so it has fewer; their rate ends with their own last step."""
    shallow, deep = made.variants
    assert made.each == 1.5e9 / 4 and shallow.tokens == deep.tokens == 4 * 64
    assert deep.flops > 1.4 * shallow.flops and shallow.steps > deep.steps
    for variant in made.variants:
        assert abs(variant.steps * variant.flops - made.each) <= variant.flops / 2
        assert variant.given[0] == f"trainer.max_steps={variant.steps}" and variant.given[-1] == "preview=none"
    assert list(made.metrics) == ["val/x0_error"] and made.evaluate == () and made.all_measures and not made.notes
    train = made.cells[1].train()
    assert train[0] == "train.py" and train[-2:] == ["name=real/depth.2-seed.0", "seed=0"]
    lines = described(made)
    assert "2 variants x 2 seeds (0 to 1); a run takes 375 MFLOP, all of them 1.5 GFLOP" in lines[0]
    assert lines[1].startswith(f"  depth.1  {shallow.steps} steps of") and lines[1].endswith("; the baseline")


def test_budgets_in_tokens_and_in_steps() -> None:
    built = planning.Built({}, {}, tokens=256, flops=1e9, denoises=True, is_world=False, world_size=1, on_gpu=False)
    for budget, steps in (
        (("budget_in=tokens", "budget_each=2600"), 10),
        (("budget_in=steps", "budget=60"), 10),
        (("budget=59e9",), 10),  # 9.8 steps each
    ):
        request = parsed(["vary=net.depth=1,2", *budget], EXAMPLE)
        each = request.asked.budget_each or request.asked.budget / 6  # type: ignore[operator]
        assert planning.steps_of(request.variants[0], built, each, request) == steps
    with pytest.raises(ValueError, match="budget_each=0.5, and one step of depth.1 takes 1 steps; give more"):
        request = parsed(["vary=net.depth=1,2", "budget_in=steps", "budget_each=0.5"], EXAMPLE)
        planning.steps_of(request.variants[0], built, 0.5, request)


def test_what_follows_from_the_steps_unless_it_is_said() -> None:
    config: dict[str, Any] = {
        "callbacks": {"validation": {"every": 500}, "checkpoints": {"every": 30}},
        "preview": {"every": 10},
    }
    config["callbacks"]["metrics"] = {"every": 20}
    assert planning.following([], 134, config) == [
        "trainer.max_steps=134", "callbacks.validation.every=34", "callbacks.metrics.every=7", "preview=none",
    ]  # fmt: skip
    own = ["callbacks.validation.every=3", "preview.every=20"]
    assert planning.following(own, 400, config) == ["trainer.max_steps=400"]
    config = {"callbacks": {"validation": None, "checkpoints": {"every": 300}}, "preview": None}
    assert planning.following([], 134, config) == ["trainer.max_steps=134", "callbacks.checkpoints.every=34"]


def test_what_to_know_of_a_plan() -> None:
    one = {"lr_schedule": {"warmup_steps": 3}, "data": {"val": {"num_clips": 2}}, "seed": 0}
    other = {**one, "data": {"val": {"num_clips": 3}}}
    metrics = planning.metrics_of("val/loss", [], {})
    said = "\n".join(planning.notes({"a": one, "b": one, "c": other}, metrics, {"a": 9, "b": 9, "c": 4}))
    assert "b has the config of a: with the same seeds their runs are the same, bit for bit" in said
    assert "data.val differs among the variants: errors on clips compare runs on the same clips" in said
    assert "val/loss is each run's loss in its own weighting" in said
    assert "c: lr_schedule.warmup_steps=3 are more than half of its 4 steps" in said and "a: lr" not in said


@pytest.mark.parametrize(
    "typed, said",
    [
        (["vary=net.dept=1,2"], "variant dept.1: unknown config key 'net.dept'; did you mean"),
        (["net.depth=1", "vary=data.num_frames=8,7"], "variant num_frames.7: "),
        (["vary=net.depth=1,2", "budget=6e7"], "budget=6e+07 is 1e+07 for each of 6 runs, and one step of depth.1 "),
        (["vary=net.depth=1,2", "name=a/../b"], "name='a/../b' is not a folder name"),
    ],
)  # fmt: skip
def test_a_variant_that_cannot_be_is_found_before_anything_is_trained(
    typed: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablate.py", *TINY, *typed])
    own = [] if "budget=6e7" in typed else ["budget=1e10"]
    with pytest.raises(Exception) as caught:  # noqa: B017
        planned(*TINY, *typed, *own)
    line = explain(caught.value, "train")
    assert line is not None and "\n" not in line and said in line
    assert not Path("runs").exists()


def test_metrics_that_will_not_be_there() -> None:
    config = {"callbacks": {"validation": {"every": 10, "error_levels": 0}}}
    with pytest.raises(
        ValueError, match="variant a: callbacks.validation.error_levels=0, so there will be no val/x0_error"
    ):
        planning.metrics_of("val/x0_error", [], {"a": config})
    assert list(planning.metrics_of("val/psnr, my/score:higher", [], {"a": config})) == ["val/psnr", "my/score"]
    for validation in (None, {"every": None}):
        with pytest.raises(
            ValueError, match="variant a: callbacks.validation.every=null, so there will be no val/psnr"
        ):
            planning.metrics_of("val/psnr", [], {"a": {"callbacks": {"validation": validation}}})
    for wrong in ("val/loss:best", ","):
        with pytest.raises(ValueError, match=f"metrics={wrong}"):
            planning.metrics_of(wrong, [], {"a": config})


def test_clips_of_several_shapes_cost_what_their_batches_hold() -> None:
    """Two shapes, of 64 and of 256 tokens, as often as the plan of an epoch has them."""
    batches = [{(8, 32, 32): 4}, {(8, 64, 64): 1}]

    class Data:
        shapes = object()

        def stream(self, place: object) -> list[list[object]]:
            return [
                [Draw(index, 0, Shape(*shape))] * count
                for index, each in enumerate(batches)
                for shape, count in each.items()
            ]

    assert planning.batches_of(Data()) == batches


@pytest.mark.slow
def test_what_training_leaves_is_what_is_compared(made: Plan) -> None:
    """A real run of each variant, and a copy of it under the other seed: each took what was planned, by its own table,
    and is one of its variant's group on the page."""
    trained: dict[str, Path] = {}
    for cell in made.cells:
        assert not is_trained(cell) and todo(cell) == [cell.train(), cell.evaluate()]
        if cell.seed == 0:
            training.train(planning.composed(Variant(cell.label, ()), cell.train()[1:]))
            trained[cell.variant.label] = cell.folder
        else:
            copytree(trained[cell.variant.label], cell.folder)
            config = changed(read_yaml(cell.folder / CONFIG), "seed", cell.seed)
            (cell.folder / CONFIG).write_text(yaml.safe_dump(config))
        assert is_trained(cell) and todo(cell) == [cell.evaluate()]
    results = collect(made, pytest.fail)
    assert len(results.runs) == 4 and results.comparison is not None
    for each in results.runs:
        assert each.costs["flops"] == pytest.approx(each.cell.variant.steps * each.cell.variant.flops)
        assert each.costs["tokens"] == each.cell.variant.steps * each.cell.variant.tokens
    row = results.comparison.rows["val/x0_error"]["depth.2"]
    assert row.difference is not None and row.difference.count == 2 and row.p is not None
    assert results.notes[0].startswith("budget: 3.75e+08 FLOPs a run; by metrics.csv the runs took")
    page = assemble([made.folder], videos=0, say=pytest.fail)
    assert [(group.label, len(group.runs)) for group in page.groups] == [("depth.1", 2), ("depth.2", 2)]
    # What runs have written is what a plan expects of them.
    assert planned(*REAL).variants == made.variants
    request = parsed(REAL, EXAMPLE)
    configs = {
        variant.label: read_yaml(made.folder / f"{variant.label}-seed.0/config.yaml") for variant in made.variants
    }
    planning.check_runs(request, configs)
    configs["depth.2"] = changed(configs["depth.2"], "optim.lr", 0.5)
    with pytest.raises(ValueError, match=r"depth.2-seed.0 was begun as another run: now optim.lr=0.5 \(there 0.02\)"):
        planning.check_runs(request, configs)
    configs["depth.1"] = changed(configs["depth.1"], "trainer.max_steps", 99)
    with pytest.raises(ValueError, match=r"now trainer.max_steps=99 \(there \d+\).* budget_each=... keeps the steps"):
        planning.check_runs(request, configs)
    more = Plan(**{**vars(made), "seeds": (0, 1, 2)})  # as of budget_each
    assert [cell.label for cell in more.cells if len(todo(cell)) > 1] == ["depth.1-seed.2", "depth.2-seed.2"]
