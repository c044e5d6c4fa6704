"""Two gloo processes with DDP and with FSDP2, held against one process; settings that need no processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest
import torch

import dit.diffusion.loss
from data.batch import collate
from dit.adapters import is_adapter_key
from dit.engine import blocks, parallel, precision
from dit.engine.callbacks.after_step import owed
from dit.engine.callbacks.sampled import share
from dit.engine.ranks import launched_devices
from dit.sampling.checkpoint import Checkpoint
from tests import commands
from tests.engine import small, two_ranks

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(900)  # half a minute on two free cores; a busy machine takes many times that


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `two_ranks.py` has left; one launch for all tests of this file."""
    out = tmp_path_factory.mktemp("ranks")
    two_ranks.begin(out)
    for done in commands.ranks("tests/engine/two_ranks.py", str(out), cwd=out):
        assert done.returncode == 0, done.stderr[-4000:]
    return out


class Gradients(small.Callback):
    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = {n: p.grad.clone() for n, p in pl_module.named_parameters()}
        self.steps.append({"loss": pl_module.last_step.losses["net"].shown, "grads": grads})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_equals_one_process_on_the_joined_batch(
    ranks: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients of four steps, clipped and averaged, to 1e-5 (fp32 sums in another order)."""
    monkeypatch.setattr(dit.diffusion.loss, "noise_like", small.fixed_noise)
    gradients = Gradients()
    module = small.model(max_steps=4, caption_dropout=0.0, objective=small.objective(small.OneLevel()))
    small.train(module, tmp_path, small.video_data(batch_size=4), [gradients], gradient_clip_norm=1.0)
    theirs = torch.load(ranks / name / "gradients.pt", weights_only=True)
    assert len(theirs) == len(gradients.steps) == 4
    for two, one in zip(theirs, gradients.steps, strict=True):
        torch.testing.assert_close(two["loss"], one["loss"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(two["grads"], one["grads"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(gradients.steps[0]["loss"], gradients.steps[1]["loss"], rtol=1e-3)
    # The file with whole tensors, saved by two ranks, against what one process saved.
    saved, here = small.load(ranks / name / "joined"), small.load(tmp_path)
    torch.testing.assert_close(saved["state_dict"], here["state_dict"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(saved["ema"], here["ema"], rtol=1e-3, atol=1e-4)
    # Validation belongs to the clip and not to who computes it.
    mine, other = small.table(tmp_path)[-1], small.table(ranks / name / "joined")[-1]
    assert float(mine["val/loss"]) == pytest.approx(float(other["val/loss"]), rel=1e-4)
    for name in ("val/x0_error", "val/eps_error_level_0.25", "val/velocity_error_frame_01"):
        assert float(mine[name]) == pytest.approx(float(other[name]), rel=1e-3) != 0
    assert float(mine["train/loss"]) == pytest.approx(float(other["train/loss"]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_every_clip_counts_alike_however_they_are_shared_out(
    ranks: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four micro-batches of 3, 1, 1 and 2 clips on two ranks have the gradient of one batch of seven."""
    monkeypatch.setattr(dit.diffusion.loss, "noise_like", small.fixed_noise)
    module = small.model(caption_dropout=0.0, objective=small.objective(small.OneLevel()))
    module.training_step(collate([small.Clips(7)[i] for i in range(7)]), 0).backward()
    theirs = torch.load(ranks / name / "uneven.pt", weights_only=True)
    wanted = {name: parameter.grad for name, parameter in module.named_parameters()}
    torch.testing.assert_close(theirs, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_resume_is_exact(ranks: Path, name: str) -> None:
    straight, broken = small.load(ranks / name / "straight"), small.load(ranks / name / "broken")
    assert [where for key in small.EXACT for where in small.same(straight[key], broken[key], key)] == []
    assert small.table(ranks / name / "straight") == small.table(ranks / name / "broken")
    assert straight["global_step"] == 6 and len(straight["rng"]) == 2
    assert small.same(straight["rng"][0], straight["rng"][1])  # each rank draws its own noise


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_three_prompts_on_two_ranks(ranks: Path, name: str, tmp_path: Path) -> None:
    """Every prompt is sampled once, and is what one process makes of the averaged weights."""
    folder = ranks / name / "straight/samples/step-00000006"
    assert sorted(p.name for p in folder.iterdir()) == ["one-seed-5.mp4", "three-seed-7.mp4", "two-seed-6.mp4"]
    module, ema = small.model(), small.average()
    module.load_state_dict(small.load(ranks / name / "straight")["ema"]["fast"], strict=False)
    alone = small.pipeline(module)(["two"], [6]).pixels[0]
    with av.open(str(folder / "two-seed-6.mp4")) as file:
        assert file.metadata["weights"] == f"ema:{ema.use}" and file.metadata["prompt"] == "two"
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
    scale = frames[0].shape[0] // small.SIZE
    shown = torch.stack(frames)[:, scale // 2 :: scale, scale // 2 :: scale].movedim(-1, 0).float() / 127.5 - 1
    assert (shown - alone.clamp(-1, 1)).abs().mean() < 0.15  # H.264 and its halved colours
    other = small.pipeline(module)(["two"], [7]).pixels[0]
    assert (shown - other.clamp(-1, 1)).abs().mean() > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_a_preview_that_fails_on_one_rank_is_a_warning(ranks: Path, name: str) -> None:
    """Before and behind the network, also where its shards meet; `test_resume_is_exact` holds that training went on."""
    said = (ranks / name / "warnings-0.txt").read_text().splitlines()
    unprepared, undecoded = "ValueError: a prompt of this rank's own", "RuntimeError: out of memory while decoding"
    reasons = [unprepared, undecoded, *(["RuntimeError: out of memory"] if name == "ddp" else [])]
    assert said == [f"no preview at step {n} ({why}); training goes on" for n in (4, 6) for why in reasons]


@pytest.mark.slow
def test_a_preview_that_fails_in_a_sharded_network_ends_the_run_behind_a_checkpoint(ranks: Path) -> None:
    """No checkpoint was due at step 2, and the next start must not begin with what has just failed."""
    said = [(ranks / f"broken_network-{rank}.txt").read_text() for rank in range(2)]
    assert said[1].startswith(
        "the preview of step 2 failed in the network on rank 1 (RuntimeError: out of memory). There"
    )
    assert said[0].startswith("the preview of step 2 failed in the network on rank 0 (")
    assert all("\n" not in each and "preview=none" in each for each in said)
    assert small.load(ranks / "broken_network")["global_step"] == 2 and owed(ranks / "broken_network", 2) == []


@pytest.mark.slow
def test_a_validation_that_fails_on_one_rank_costs_no_step(ranks: Path) -> None:
    said = [(ranks / f"unvalidated-{rank}.txt").read_text() for rank in range(2)]
    assert said[1] == "OSError: stale file handle"
    assert said[0] == "ValueError: validation failed on rank 1 (OSError: stale file handle); step 2 is saved"
    assert small.load(ranks / "unvalidated")["global_step"] == 2 and owed(ranks / "unvalidated", 2) == ["validation"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grown", "back"])
def test_as_many_clips_a_step_on_other_ranks_are_the_same_run(ranks: Path, name: str) -> None:
    """One process made three steps of 4 clips, or six. Copies go on with 1 clip x 2 ranks x 2 accumulated, or shards
    with 2 x 2 from step 3 back. The end is that of the one process."""
    straight, other = (small.load(ranks / "runs" / each) for each in ("straight", name))
    middle = torch.load(ranks / "runs/straight/checkpoints/step-00000003.ckpt", weights_only=True)
    for key in ("state_dict", "ema"):
        torch.testing.assert_close(other[key], straight[key], rtol=1e-3, atol=1e-5)
    moved = [(middle["state_dict"][key] - last).abs().max() for key, last in straight["state_dict"].items()]
    assert max(moved) > 0.01
    assert len(other["rng"]) == 2 and len(straight["rng"]) == 1 and other["VideoData"] == straight["VideoData"]
    tables = [small.table(ranks / "runs" / each) for each in ("straight", name)]
    for mine, theirs in zip(*tables, strict=True):
        assert mine["step"] == theirs["step"] and mine["seen/clips"] == theirs["seen/clips"]
        assert float(mine["train/loss"]) == pytest.approx(float(theirs["train/loss"]), rel=1e-3)


@pytest.mark.slow
def test_another_number_of_clips_a_step_is_one_line_on_all_ranks(ranks: Path) -> None:
    said = {(ranks / f"uneven-{rank}.txt").read_text() for rank in range(2)}
    assert said == {
        "runs/uneven: a step took 4 clips (data.batch_size=4 x 1 ranks x trainer.accumulate=1), and would take"
        " 8 (4 x 2 x 1): data.batch_size=2 keeps it; resume_changes=[data.batch_size] goes on with another number"
    }
    assert small.load(ranks / "runs/uneven")["global_step"] == 3


@pytest.mark.slow
def test_ranks_make_the_latent_cache_that_one_process_makes(ranks: Path) -> None:
    one, two = ({file.relative_to(ranks / name): file.read_bytes() for file in (ranks / name).rglob("*.*")
                 if file.is_file()} for name in ("cache-one", "cache-two"))  # fmt: skip
    assert one == two and len([file for file in one if file.suffix == ".safetensors"]) == 5  # 7 clips, and 2 held out


@pytest.mark.slow
def test_all_ranks_look_before_the_first_acts(ranks: Path) -> None:
    assert (ranks / "looked.txt").read_text() == "looked-0 looked-1\n"
    aside = list((ranks / "runs/back/set_aside").glob("*/checkpoints/*"))
    assert [file.name for file in aside] == ["step-00000006.ckpt"]


def test_prompts_are_dealt_out() -> None:
    assert [share(3, rank, 2) for rank in (0, 1)] == [[0, 2], [1, 2]]
    assert [share(1, rank, 2) for rank in (0, 1)] == [[0], [0]]
    for count in range(1, 9):
        for world in range(1, 5):
            dealt = [share(count, rank, world) for rank in range(world)]
            assert len({len(mine) for mine in dealt}) == 1 and {i for mine in dealt for i in mine} == set(range(count))


@pytest.mark.slow
def test_sharded_run_goes_on_in_one_process(ranks: Path, tmp_path: Path) -> None:
    """What FSDP2 saved is a whole checkpoint: weights, averages and optimizer state load without it."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").write_bytes((ranks / "fsdp2/straight/checkpoints/last.ckpt").read_bytes())
    saved = small.load(run)
    module = small.model(max_steps=8, seed=3)
    small.train(module, run, small.video_data())
    now = small.load(run)
    assert now["global_step"] == 8
    assert saved["state_dict"].keys() == now["state_dict"].keys() == saved["ema"]["fast"].keys()
    moments = [state["optimizer_states"][0]["state"][0] for state in (saved, now)]
    assert moments[1]["step"] == moments[0]["step"] + 2 and moments[0]["exp_avg"].abs().sum() > 0
    assert small.same(saved["state_dict"], now["state_dict"])  # it has moved


@pytest.mark.slow
def test_run_of_copies_goes_on_sharded(ranks: Path) -> None:
    """Each parameter finds its own moments again, though the two strategies number them differently."""
    straight, crossed = small.load(ranks / "ddp/straight"), small.load(ranks / "crossed")
    assert crossed["global_step"] == 6
    torch.testing.assert_close(crossed["state_dict"], straight["state_dict"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(crossed["ema"], straight["ema"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_adapters_on_two_ranks(ranks: Path) -> None:
    """Copies, shards, and both in one run: the same adapters, beside the same weights, which the file is without."""
    pytest.importorskip("peft")
    ddp, fsdp2, crossed = (small.load(ranks / name) for name in ("ddp/adapters", "fsdp2/adapters", "crossed_adapters"))
    assert len(ddp["state_dict"]) == 2 * 2 * 2 and all(is_adapter_key(key) for key in ddp["state_dict"])
    assert all(tensor.abs().max() > 1e-3 for tensor in ddp["state_dict"].values())
    for other in (fsdp2, crossed):
        assert other["global_step"] == 6 and other["frozen"] == ddp["frozen"]
        torch.testing.assert_close(other["state_dict"], ddp["state_dict"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(other["ema"], ddp["ema"], rtol=1e-3, atol=1e-4)
    torch.manual_seed(0)
    first, kept = small.adapted(seed=0), Checkpoint.load(ranks / "crossed_adapters").weights
    assert first.frozen and small.same({key: kept[key] for key in first.frozen}, {
        key: first.state_dict()[key] for key in first.frozen
    }) == []  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_several_networks_resume_exactly(ranks: Path, name: str) -> None:
    straight, broken = (small.load(ranks / name / where) for where in ("distilled", "distilled_broken"))
    assert [where for key in (*small.EXACT, "frozen") for where in small.same(straight[key], broken[key], key)] == []
    tables = [small.table(ranks / name / where) for where in ("distilled", "distilled_broken")]
    assert tables[0] == tables[1] and float(tables[0][-1]["train/loss_critic"]) > 0
    torch.manual_seed(0)
    first = small.distilled(2, seed=0).state_dict()
    assert {key.split(".")[0] for key in straight["state_dict"]} == {"net", "critic"}
    assert all(not torch.equal(tensor, first[key]) for key, tensor in straight["state_dict"].items())
    assert {key.split(".")[0] for key in straight["ema"]["fast"]} == {"net"}
    kept = Checkpoint.load(ranks / name / "distilled").weights  # with what stands beside it
    assert small.same({k: v for k, v in first.items() if k.startswith(("teacher", "text"))}, {
        k: v for k, v in kept.items() if k.startswith(("teacher", "text"))
    }) == []  # fmt: skip
    assert len(list((ranks / name / "distilled/samples/step-00000006").glob("*.mp4"))) == 2


@pytest.mark.slow
def test_a_frozen_copy_of_the_network_is_sharded_as_the_others(ranks: Path) -> None:
    whole = sum(p.numel() for p in small.TinyNet().parameters())
    for rank in range(2):
        copies, cut = (
            json.loads((ranks / name / "distilled" / f"held-{rank}.json").read_text()) for name in ("ddp", "fsdp2")
        )
        assert copies == {"critic": whole, "teacher": whole}
        assert cut["critic"] == cut["teacher"] < 0.7 * whole


@pytest.mark.slow
def test_several_networks_agree_over_strategies(ranks: Path) -> None:
    """Each parameter of each optimizer finds its own moments again, whoever saved them."""
    straight = small.load(ranks / "ddp/distilled")
    for other in (small.load(ranks / "fsdp2/distilled"), small.load(ranks / "crossed_distilled")):
        assert other["global_step"] == 6
        torch.testing.assert_close(other["state_dict"], straight["state_dict"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(other["ema"], straight["ema"], rtol=1e-3, atol=1e-4)
        steps = [
            {s["step"].item() for s in each["optimizer_states"][0]["state"].values()} for each in (straight, other)
        ]
        assert steps == [{3.0, 6.0}] * 2  # of the student and of the critic


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_resume_is_exact_where_the_loss_does_not_reach(ranks: Path, name: str) -> None:
    straight, broken = small.load(ranks / name / "idle"), small.load(ranks / name / "idle_broken")
    assert [where for key in small.EXACT for where in small.same(straight[key], broken[key], key)] == []
    torch.manual_seed(0)
    first, idle = small.idle(seed=0).state_dict(), "net.blocks.0.idle"
    assert torch.equal(straight["state_dict"][idle], first[idle])
    moved = [key for key, tensor in straight["state_dict"].items() if not torch.equal(tensor, first[key])]
    state = straight["optimizer_states"][0]["state"]
    assert moved == [key for key in first if key != idle] and len(state) == len(moved)
    assert all(moments["exp_avg"].abs().sum() > 0 for moments in state.values())


@pytest.mark.slow
def test_copies_refuse_what_the_loss_does_not_reach(ranks: Path) -> None:
    for rank in range(2):
        said = (ranks / f"refused-{rank}.txt").read_text()
        assert said.startswith("1 of 25 trained parameters have no part in the loss (net.blocks.0.idle): trainer.")


@pytest.mark.slow
def test_an_autoencoder_resumes_exactly(ranks: Path) -> None:
    """With its discriminator, the moments of its latents and what is measured of it."""
    straight, broken = (ranks / f"runs/vae-ddp-{where}" for where in ("straight", "broken"))
    one, two = small.load(straight), small.load(broken)
    assert [where for key in small.EXACT for where in small.same(one[key], two[key], key)] == []
    assert small.table(straight) == small.table(broken) and one["global_step"] == 4
    assert float(small.table(straight)[-1]["train/loss_discriminator"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_an_autoencoder_is_that_of_one_process_on_the_joined_batch(ranks: Path, name: str) -> None:
    """The moments of its latents are those of all ranks, too."""
    one, two = (small.load(ranks / f"runs/{run}") for run in ("vae-joined", f"vae-{name}-joined"))
    assert one["state_dict"].keys() == two["state_dict"].keys()
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-3, atol=1e-4)
    mine, other = (small.table(ranks / f"runs/{run}")[-1] for run in ("vae-joined", f"vae-{name}-joined"))
    for column in ("train/loss", "val/psnr"):
        assert float(mine[column]) == pytest.approx(float(other[column]), rel=1e-3) != 0


def test_settings_follow_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_devices() is None
    for name, value in {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert launched_devices() == (2, 2)
    with pytest.raises(ValueError, match="4 processes were started.*trainer=ddp or trainer=fsdp2"):
        small.training(1)
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    for name, value in {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launched_devices() == (4, 2)


def test_who_starts_processes() -> None:
    ddp = parallel.DDP(
        find_unused_parameters=False, gradient_as_bucket_view=True, static_graph=False, timeout_minutes=1
    )
    assert small.training(1, strategy=ddp, devices=2).starts_processes
    assert not small.training(1, strategy=ddp, devices=1).starts_processes
    assert not small.training(1).starts_processes


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="precision=16-mixed is not supported; use 32-true, bf16-mixed or auto"):
        precision.plugin("16-mixed", "cpu")
    with pytest.raises(ValueError, match="param_dtype=int32 is not a floating dtype"):
        parallel.FSDP2(reshard_after_forward=True, param_dtype="int32", reduce_dtype=None, timeout_minutes=1)
    for value in (0, 1.5, float("inf")):
        with pytest.raises(ValueError, match=f"trainer.max_steps={value} must be a whole number, at least 1"):
            small.training(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="trainer.compile_mode=fast must be null or one of default, .*max-autotune"):
        small.training(1, compile_mode="fast")


def test_blocks_compile_in_place() -> None:
    """No prefix reaches a parameter's name, and each block is compiled once."""
    net = small.TinyNet()
    keys = list(net.state_dict())
    blocks.compile_blocks(net, "default")
    assert list(net.state_dict()) == keys
    assert all(block._compiled_call_impl is not None for block in net.blocks)
    assert net._compiled_call_impl is None


def test_auto_is_bfloat16_where_a_gpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    training = small.training(1, precision="auto")
    assert training.arithmetic == "32-true" and training.autocast is None and training.slow_precision() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert precision.resolved("auto", "cuda") == "32-true", "it would be emulated"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert precision.resolved("auto", "cuda") == "bf16-mixed" and precision.resolved("32-true", "cuda") == "32-true"
    assert precision.resolved("auto", "cpu") == "32-true"
