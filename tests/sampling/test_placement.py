"""A published text encoder and the network are never in memory together, nor, where told so, its two networks."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from dit.config.build import build
from dit.diffusion.experts import ByLevel
from dit.interop.presets import compose
from dit.sampling.pipeline import Pipeline
from dit.sampling.placement import can_be_read, is_unread
from dit.text import pretrained
from scripts.twins.pipelines import ASKED, TWINS, noise_for, ours, saved
from tests.sampling.fakes import checkpoint
from tests.text import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("wan", "wan22")}
    for name, folder in made.items():
        saved(name, folder)
    return made


def held(module: nn.Module | None) -> int:
    """Bytes of the weights that a module has in memory."""
    there = [] if module is None else [each for each in module.parameters() if not each.is_meta]
    return sum(each.numel() * each.element_size() for each in there)


class Watch:
    """What is in memory when an encoder is loaded, and whenever a network is asked: (encoders, networks), in bytes."""

    def __init__(self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.networks = pipeline.placement.net
        self.encoders: list[weakref.ref[nn.Module]] = []
        self.loading: list[tuple[int, int]] = []
        self.asked: list[tuple[int, int]] = []
        load = pretrained.load_encoder

        def loaded(*arguments: Any) -> nn.Module:
            model = load(*arguments)
            self.encoders.append(weakref.ref(model))
            self.loading.append(self.now())
            return model

        monkeypatch.setattr(pretrained, "load_encoder", loaded)
        both = self.networks.networks if isinstance(self.networks, ByLevel) else (self.networks,)
        for net in both:
            net.register_forward_pre_hook(lambda *_: self.asked.append(self.now()))

    def now(self) -> tuple[int, int]:
        gc.collect()
        return sum(held(encoder()) for encoder in self.encoders), held(self.networks)


def made(pipeline: Pipeline) -> Tensor:
    samples = pipeline(
        ASKED.prompts, ASKED.seeds, noise=noise_for(pipeline, 2), negative_prompt=ASKED.negatives, num_steps=3
    )
    return samples.latents


def test_the_network_is_read_when_the_encoder_has_gone(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = ours("wan", folders["wan"], ASKED)
    watch = Watch(pipeline, monkeypatch)
    assert watch.now() == (0, 0) and is_unread(pipeline.placement.net), "nothing is read before it is needed"
    made(pipeline)
    ((encoder, network),) = watch.loading
    assert encoder > 0 and network == 0
    assert len(watch.asked) == 3 and set(watch.asked) == {(0, held(pipeline.net))}
    assert held(pipeline.net) > 0


def test_both_are_there_where_that_is_told(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = ours("wan", folders["wan"], ASKED).changed(offload_text=False)
    watch = Watch(pipeline, monkeypatch)
    made(pipeline)
    assert min(watch.asked[0]) > 0


def test_two_experts_take_turns_in_memory(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that waits on a CPU lets go of its weights, and reads them again for the next batch."""
    frames, height, width = TWINS["wan22"].shape
    asked = {"num_frames": frames, "height": height, "width": width, "guidance_scale": ASKED.scale}
    together = ours("wan22", folders["wan22"], ASKED)
    wanted, both = made(together), held(together.net)
    pipeline = Pipeline.from_pretrained(folders["wan22"], "cpu", offload_experts=True, **asked)  # type: ignore[arg-type]
    watch = Watch(pipeline, monkeypatch)
    assert torch.equal(made(pipeline), wanted)
    assert len(watch.asked) == 3 and set(watch.asked) == {(0, both // 2)}
    assert torch.equal(made(pipeline), wanted) and len(watch.asked) == 6
    assert held(pipeline.net) == both, "who asks for the network gets all of it"


def test_a_device_gets_its_weights_directly_and_never_with_the_encoder(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The meta device stands in for a GPU: only where things go is looked at."""
    pipeline = ours("wan", folders["wan"], ASKED)
    assert pipeline.placement.unread is not None
    object.__setattr__(pipeline.placement.unread, "device", torch.device("meta"))
    gone: list[bool] = []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: gone.append(is_unread(pipeline.placement.net)))
    with pipeline.placement.making_room(False, peaks := []) as device:
        assert device.type == "meta"
    assert gone == [True, True] and peaks, "a network that is still in its files stays there"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A checkpoint of a network of ours, whose config names a published text encoder."""
    encoder = tiny.t5()
    folder = tiny.save(tmp_path / "model", tokenizer=tiny.unigram(), text_encoder=encoder)
    text = yaml.safe_load((ROOT / "configs/text/t5.yaml").read_text()) | {"folder": str(folder)}
    width = encoder.config.d_model
    net = compose("wan21_tiny", [f"net.text_width={width}", "net.in_channels=3", "net.out_channels=3"])
    codec = {"_target_": "dit.codec.pixel.PixelCodec", "scale": 1.0}
    run = checkpoint(tmp_path / "run", text=None, codec=codec)
    held = nn.ModuleDict({"net": build(net)})
    for parameter in held.parameters():
        nn.init.normal_(parameter, std=0.1)
    file = run / "checkpoints/last.ckpt"
    content = torch.load(file, weights_only=True)
    content["state_dict"] = dict(held.state_dict())
    content["ema"] = {"long": {name: each.detach() + 0.01 for name, each in held.named_parameters()}}
    content["config"] |= {"net": net, "text": text}
    torch.save(content, file)
    return run


def sampled(pipeline: Pipeline) -> Tensor:
    return pipeline(["a cat runs", ""], [0, 1]).latents


def test_so_it_is_with_a_run_of_ours(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network is built without weights, too, and samples as the one that is built with them."""
    pipeline = Pipeline.from_checkpoint(run, device="cpu", num_steps=2)
    watch = Watch(pipeline, monkeypatch)
    latents = sampled(pipeline)
    assert watch.loading[0][0] > 0 and watch.loading[0][1] == 0
    assert set(watch.asked) == {(0, held(pipeline.net))} and held(pipeline.net) > 0
    at_once = Pipeline.from_checkpoint(run, device="cpu", num_steps=2, offload_text=False)
    assert not is_unread(at_once.placement.net) and torch.equal(sampled(at_once), latents)


def test_a_network_that_holds_more_than_it_saves_is_not_built_without_weights() -> None:
    with torch.device("meta"):
        net = nn.Linear(2, 2)
        assert can_be_read(net)
        net.register_buffer("table", torch.arange(3.0), persistent=False)
    assert not can_be_read(net)
    with torch.device("meta"):
        other = nn.Linear(2, 2)
        other.table = torch.arange(3.0)
    assert not can_be_read(other)


def test_a_folder_that_has_moved_is_that_of_both(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    moved = {"folders": {"text": str(tmp_path / "elsewhere")}}
    both = Pipeline.from_checkpoint(run, device="cpu", low_noise_ckpt=run, boundary=0.5, num_steps=2, **moved)  # type: ignore[arg-type]
    alone = Pipeline.from_checkpoint(run, device="cpu", num_steps=2, **moved)  # type: ignore[arg-type]
    assert torch.equal(sampled(both), sampled(alone))
