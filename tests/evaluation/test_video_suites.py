"""`suite=fvd` and `suite=prediction` on a tiny run: rows, protocols, what is kept, and runs that cannot be measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch

from dit.codec.compression import Compression
from dit.entry import explain
from dit.evaluation.harness.result import Result
from dit.evaluation.harness.run import evaluate
from dit.evaluation.harness.table import protocol, table
from dit.evaluation.harness.work import Work
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.fvd import FVDSuite, by_exact_flow
from dit.evaluation.suites.prediction import DriftSuite, LongerSuite, PredictionSuite, first_frames, held, is_grey
from dit.evaluation.suites.real import real_clips
from dit.media.video import write_video
from dit.sampling.ranks import Ranks
from tests.evaluation.checkpoints import make_run, sampler, subject
from tests.evaluation.films import discs
from tests.evaluation.parts import part

PREDICTS = ("conditioning=predict", "conditioning.tasks.predict.count=4")


def fvd(**changes: Any) -> FVDSuite:
    own: dict[str, Any] = {
        "features": part("features", "random"), "frame_features": part("frame_features", "random"),
        "flow": part("flow", "pyramid"), "num_clips": 4, "seed": 1000, "manifest": None, "root": None,
        "features_cache": None, "sheet_clips": 4,
    }  # fmt: skip
    return FVDSuite(**(own | changes))


def prediction(suite: type[PredictionSuite] = PredictionSuite, **changes: Any) -> PredictionSuite:
    own: dict[str, Any] = {
        "given": None, "windows": 1, "context_level": None, "samples": 2,
        "lpips": None, "num_clips": 3, "seed": 1000, "manifest": None, "root": None,
        "sheet_clips": 4,
    }  # fmt: skip
    return suite(**(own | changes))


def measured(run: Path, suite: Suite, name: str = "fvd") -> Result:
    own = subject(run)
    suite.check(own)
    return suite.measure(own, Work(own, name, 1, None, Ranks(0, 1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_run(tmp_path_factory.mktemp("runs") / "mine", *PREDICTS)
    file = made / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    draw = torch.Generator().manual_seed(1)
    for key, weight in content["state_dict"].items():  # a network begins with zeros, and would show one clip to all
        content["state_dict"][key] = weight + 0.05 * torch.randn(weight.shape, generator=draw)
    torch.save(content, file)
    return made


@pytest.fixture(scope="module")
def compared(run: Path) -> Result:
    return measured(run, fvd())


def test_samples_are_held_against_real_clips_with_the_protocol_beside(compared: Result) -> None:
    assert list(compared.rows) == ["samples (raw)", "real clips", "other real clips (floor)"]
    sets, single = {"fvd[random]", "kvd[random]", "fid[random]"}, {"flicker", "motion[pyramid]"}
    for row, names in (
        ("samples (raw)", sets | single),
        ("other real clips (floor)", sets | single),
        ("real clips", single),
    ):
        assert names <= set(compared.rows[row]) and (sets & set(compared.rows[row]) == sets & names)
    for row in ("real clips", "other real clips (floor)"):  # of the world, whose true flow is known
        assert {"warping error[exact]", "motion[exact]"} <= set(compared.rows[row])
    assert not any("[exact]" in name for name in compared.rows["samples (raw)"])
    made, floor = (compared.rows[row]["fvd[random]"].value for row in ("samples (raw)", "other real clips (floor)"))
    assert made > 5 * floor  # random weights make noise
    own = compared.protocol["fvd[random]"]
    assert (
        own["clips"] == own["reference"] == 4 and own["frames"] == 8 and own["resize"].startswith("bilinear to 64x64")
    )
    assert len(own["sha256"]) == 64 and own["split"].startswith("heldout clips of World ")
    assert any("4 clips for 51 features" in line for line in compared.said)
    assert any(line.startswith("fid") and "32 frames for 51 features" in line for line in compared.said)
    assert len(list(compared.folder.glob("*.mp4"))) == 4


def test_real_clips_of_worlds_are_warped_by_their_exact_flow(tmp_path: Path) -> None:
    """It moves the textured picture of a camera to the next frame; flow of another frame, or of nothing, does not."""
    real = real_clips(subject(make_run(tmp_path / "camera", "data=world_camera")).checkpoint, (), None, None, 1)
    assert real.flow is not None
    clip, (flow, visible) = real.pixels(0), real.flow(0)

    def error(flow: torch.Tensor, visible: torch.Tensor) -> float:
        return by_exact_flow(clip, flow, visible, 8.0)["warping error[exact]"]

    own = error(flow, visible)
    assert own < 0.5 * error(torch.zeros_like(flow), visible) and own < 0.5 * error(-flow, visible)
    assert own < 0.5 * error(flow, torch.ones_like(visible))  # what is hidden in the next frame would be an error


def test_what_was_looked_at_is_not_looked_at_again(
    run: Path, compared: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sampled nor put through the network: the same numbers come out of what was kept."""
    from dit.evaluation.video.networks import Network

    def refuse(*_: Any) -> None:
        raise AssertionError("computed anew")

    monkeypatch.setattr(Network, "forward", refuse)
    monkeypatch.setattr("dit.sampling.pipeline.Pipeline.make", lambda *_: iter(()))
    again = measured(run, fvd())
    assert again.rows == compared.rows and again.folder == compared.folder


def test_another_network_is_another_measurement(run: Path, compared: Result) -> None:
    other = measured(run, fvd(features=part("features", "random", size=32), frame_features=None, flow=None))
    assert list(other.rows["samples (raw)"]) == ["fvd[random]", "kvd[random]"] and other.folder != compared.folder
    assert other.protocol["fvd[random]"]["resize"] != compared.protocol["fvd[random]"]["resize"]


def test_lost_features_are_a_line(run: Path, compared: Result) -> None:
    kept = sorted((run / "evaluation" / "features").rglob("*.safetensors"))
    content = [file.read_bytes() for file in kept]
    for file in kept:
        file.unlink()
    try:
        with pytest.raises(ValueError, match="features of a clip that was measured are no longer in"):
            measured(run, fvd())
    finally:
        for file, each in zip(kept, content, strict=True):
            file.write_bytes(each)


@pytest.fixture(scope="module")
def predicted(run: Path) -> Result:
    return measured(run, prediction(), "prediction")


def test_predictions_are_of_what_was_given(run: Path, predicted: Result) -> None:
    """The given frames of the samples are those of the real clips; a still picture is better than random weights."""
    assert list(predicted.rows) == ["samples (raw)", "last given frame, held"]
    own, still = predicted.rows["samples (raw)"], predicted.rows["last given frame, held"]
    assert set(own) == {"mse", "psnr", "ssim", *(f"{name}, best of 2" for name in ("mse", "psnr", "ssim"))}
    assert own["psnr"].value < own["psnr, best of 2"].value < still["psnr"].value
    said = predicted.protocol["psnr"]
    assert said["given"] == 4 and said["samples"] == 2 and said["clips"] == 3
    (curve,) = [line for line in predicted.said if line.startswith("psnr of each predicted frame: ")]
    assert len(curve.split(", ")) == 4
    assert len(list(predicted.folder.glob("*.mp4"))) == 6
    lines = [json.loads(line) for line in (predicted.folder / "found.jsonl").read_text().splitlines()]
    assert len({json.dumps(value) for _, value in lines}) == 6  # two samples of a clip differ


BOUNCES = tuple(
    f"{sign}data.{split}.motions.{motion}={weight}"
    for split in ("train", "val")
    for sign, motion, weight in (("", "straight", 0.0), ("+", "bounce", 1.0))
)


def test_longer_futures_are_predicted_at_once_or_in_windows(tmp_path: Path) -> None:
    """Trained on 8 frames with 4 given: three windows are 4 + 3 * 4 frames."""
    bounces = make_run(tmp_path / "bounces", *PREDICTS, *BOUNCES)
    at_once = measured(bounces, prediction(LongerSuite, windows=3, samples=1), "longer")
    chained = measured(bounces, prediction(DriftSuite, windows=3, samples=1), "drift")
    for each in (at_once, chained):
        assert each.protocol["psnr"]["frames"] == 16 and each.protocol["psnr"]["split"].startswith("longer clips of")
        still = each.rows["last given frame, held"]
        parts = [f"psnr of frames {part}" for part in ("5-8", "9-12", "13-16")]
        assert [name for name in still if name.startswith("psnr of")] == parts
        assert still["psnr"].value == pytest.approx(sum(still[part].value for part in parts) / 3)
        assert still[parts[0]].value > still[parts[1]].value  # what is held is left behind
        with av.open(str(min(each.folder.glob("*.mp4")))) as container:
            assert sum(1 for _ in container.decode(video=0)) == 16
    assert chained.protocol["chained"] and "chained" not in at_once.protocol
    assert chained.protocol["num_frames"] == 8 and at_once.protocol["num_frames"] == 16  # that the network sees
    noisy = measured(bounces, prediction(context_level=0.5, samples=1), "prediction")
    assert noisy.protocol["context level"] == 0.5


def test_what_cannot_be_measured_is_a_line(tmp_path: Path, run: Path) -> None:
    plain = make_run(tmp_path / "plain")
    autoencoder = make_run(tmp_path / "nothing", config={"data": None})
    i3d = part("features", "i3d")
    for own, suite, said in (
        (run, fvd(features=i3d), "features.module.file is missing: the TorchScript file of a feature network"),
        (run, fvd(flow=part("flow", "raft")), "flow.file is missing: weights of torchvision's RAFT"),
        (run, fvd(num_clips=1), "has None clip"),
        (
            plain,
            prediction(),
            "was trained with no fixed number of first frames given: say how many, suite.prediction.given=N",
        ),
        (run, prediction(given=8), "suite.prediction.given=8 leaves nothing of 8 frames to predict"),
        (run, prediction(LongerSuite, windows=4), "no clips of 20 frames can be made, and windows= says how many"),
        (run, prediction(LongerSuite, windows=4), "leaves the frame within 2.5 s"),
        (run, prediction(lpips=part("lpips", "alex")), "lpips.file is missing"),
        (autoencoder, fvd(), "was validated on no clips"),
    ):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            suite.check(subject(own))
        assert said in str(error.value) and "\n" not in str(error.value), str(error.value)


def test_one_network_that_is_missing_leaves_the_rest(run: Path, compared: Result, predicted: Result) -> None:
    suites = {"fvd": fvd(features=part("features", "i3d")), "prediction": prediction()}
    warned: list[str] = []
    ask = {"ckpt": str(run), "suite": suites, "out": None, **vars(sampler())}
    outcome = evaluate(ask, Ranks(0, 1), explain, lambda _: None, warned.append)
    assert outcome.measured == 1 and len(outcome.failed) == 1 and "features.module.file is missing" in warned[0]
    summary = json.loads((run / "evaluation.json").read_text())
    assert list(summary["suites"]) == ["prediction"]


def files(folder: Path, clips: torch.Tensor) -> Path:
    """Clips as files without loss, in a list with a split."""
    rows = []
    for index, clip in enumerate(clips):
        write_video(folder / f"{index}.mp4", clip, 8.0, {}, 1, lossless=True)
        split = "test" if index % 2 else "train"
        rows.append({"path": f"{index}.mp4", "caption": f"clip {index}", "split": split})
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "list.jsonl"


def test_real_clips_come_from_the_files_that_the_run_held_out(tmp_path: Path) -> None:
    clips = discs(6, seed=0)
    listed = files(tmp_path, clips)
    own = (
        "data=real_clips", f"data.manifest={listed}", "data.num_frames=8", "data.height=32", "data.width=32",
        "data.fps=8", "data.val_clips=1", "preview=none",
    )  # fmt: skip
    filtered = make_run(tmp_path / "filtered", *own, "data.val_filter=\"split == 'test'\"")
    found = real_clips(subject(filtered).checkpoint, (), None, None, wanted=10)
    assert found.count == 3 and found.fps == 8 and found.at_most(10) == 3  # more than it validated on, none that it saw
    assert found.split.startswith("split == 'test' of list.jsonl, ")
    captions = [found.request(index, 5, False).prompt for index in range(3)]
    assert captions == ["clip 1", "clip 3", "clip 5"]
    assert (found.pixels(1).int() - clips[3].int()).abs().max() <= 6  # colours are stored in another space
    apart = make_run(tmp_path / "apart", *own)
    assert real_clips(subject(apart).checkpoint, (), None, None, wanted=10).count == 1
    (tmp_path / "moved").mkdir()
    moved = files(tmp_path / "moved", clips[:4])
    listed.unlink()
    with pytest.raises(FileNotFoundError, match="list.jsonl"):
        real_clips(subject(filtered).checkpoint, (), None, None, wanted=10)
    assert real_clips(subject(filtered).checkpoint, (), str(moved), None, wanted=10).count == 2
    for key, value, said in (
        ("manifest", "https://host/train-{000..001}.tar", "nothing is fetched for a checkpoint's config"),
        ("shapes", {"_target_": "data.shapes.Buckets"}, "clips of several shapes"),
        ("decoder", {"_target_": "os.system", "command": "true"}, "data.decoder"),
        ("anything", 1, "data.anything: clip_data takes no anything"),
    ):
        strange = subject(filtered).checkpoint
        strange.config["data"] = strange.config["data"] | {key: value}
        with pytest.raises(ValueError, match=said):
            real_clips(strange, (), None, None, wanted=10)


def test_unlike_protocols_stand_apart_in_the_table(compared: Result) -> None:
    """Two checkpoints of which one was measured on other clips: each has a column of its own for that measure."""
    from dit.evaluation.harness.result import as_report

    one = as_report("fvd", "sets", {}, compared)
    two = json.loads(json.dumps(one))
    two["settings"]["fvd[random]"]["clips"] = 8
    alike, unlike = table([("a", one), ("b", one)]), table([("a", one), ("b", two)])
    assert "fvd[random] (2)" not in alike
    head = [cell.strip() for cell in unlike.splitlines()[0].strip("|").split("|")]
    assert head[head.index("fvd[random]") + 1] == "fvd[random] (2)" and "kvd[random] (2)" not in head
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.strip("|").split("|")]
        for line in unlike.splitlines()
    }
    first, second = rows["a: samples (raw)"], rows["b: samples (raw)"]
    place = head.index("fvd[random]")
    assert first[place] != "-" and first[place + 1] == "-" and second[place] == "-" and second[place + 1] != "-"
    two["settings"]["kvd[random]"]["clips"] = 8
    said = "b was not measured as a, so the two cannot be compared: clips 8 in place of 4 (fvd[random], kvd[random])"
    assert protocol([("a", one), ("b", two)])[1] == said


def test_latent_frames_that_training_gives_are_frames_of_pixels_here() -> None:
    """Two latents of an autoencoder that codes the first frame alone and halves the others are three frames."""
    node = {"_target_": "dit.diffusion.conditioning.FirstFrames", "count": 2}
    run: Any = SimpleNamespace(
        checkpoint=SimpleNamespace(config={"conditioning": {"tasks": {"predict": node}}}),
        pipeline=SimpleNamespace(codec=SimpleNamespace(compression=Compression((2, 8, 8), causal=True))),
    )
    assert prediction()._given(run) == 3 and prediction(given=2)._given(run) == 2


def test_helpers() -> None:
    node = {"_target_": "dit.diffusion.conditioning.FirstFrames", "count": 10}
    assert first_frames({"tasks": {"a": node, "b": {**node, "count": 3}}}) == {3, 10} and first_frames(None) == set()
    grey = torch.zeros(3, 2, 4, 4, dtype=torch.uint8)
    assert is_grey(grey) and not is_grey(discs(1, 0)[0])
    clip = discs(1, 0)[0]
    assert torch.equal(held(clip, 3)[:, :3], clip[:, :3]) and torch.equal(held(clip, 3)[:, 7], clip[:, 2])
