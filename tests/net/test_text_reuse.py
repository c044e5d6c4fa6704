"""What depends on the text alone is made once: the same bits, fewer products, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.flop_counter import FlopCounterMode

from dit.net.coordinates import Coordinates
from dit.net.patches import token_grid
from dit.net.sequence import NoiseLevels
from dit.net.text_reuse import MOST, TextReuse
from tests.net.conftest import CONFIGS, Build

GRID = (4, 4, 4)
# How text enters: by cross-attention, with an image beside it, as a stream, or by way of the noise level.
PRESETS: dict[str, tuple[str, list[str]]] = {
    "wan": ("wan21_tiny", []),
    "wan with an image": ("wan21_tiny", ["net/text=cross_image"]),
    "skyreels": ("skyreels_v2_tiny", []),
    "ltx": ("ltx_video_tiny", []),
    "allegro": ("allegro_tiny", []),
    "cosmos": ("cosmos_tiny", []),
    "latte": ("latte_tiny", []),
    "cogvideox": ("cogvideox_tiny", []),
    "mochi": ("mochi_tiny", []),
    "hunyuan": ("hunyuan_video_tiny", []),
}
TINY = sorted(file.stem for file in (CONFIGS / "net").glob("*_tiny.yaml"))  # every published family
CROSS = [name for name in PRESETS if name not in ("cogvideox", "mochi", "hunyuan")]


def asked(net: Any, seed: int = 0, batch: int = 2, length: int = 6) -> tuple[Tensor, dict[str, Tensor]]:
    """x and cond with every key that the network needs."""
    draw = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    cond = {
        "text": some(batch, length, net.text.text_width),
        "text_mask": torch.arange(length) < torch.tensor([[length], [3]])[:batch],
    }
    if "image" in net.reads.optional:
        cond["image"] = some(batch, 5, net.text.image.features)
    cond |= {name: some(batch, channels, *GRID) for name, channels in net.concat_channels.items()}
    wide = {
        "pooled": lambda: some(batch, net.vectors.pooled.hidden.in_features),
        "label": lambda: torch.zeros(batch).long(),
    }
    for key in net.reads.required:
        if key not in cond:
            cond[key] = wide.get(key, lambda: some(batch).abs())()
    return some(batch, net.in_channels, *GRID), cond


def products(net: Any, *given: Any) -> tuple[int, Tensor]:
    """Multiply-adds of a forward pass, and its output."""
    with FlopCounterMode(display=False) as counter:
        out = net(*given)
    return counter.get_total_flops(), out


def levels(*values: float) -> list[Tensor]:
    return [torch.full((2, 1), value, dtype=torch.float64) for value in values]


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_bits_with_fewer_products(randomised: Build, name: str) -> None:
    preset, overrides = PRESETS[name]
    net: Any = randomised(*overrides, preset=preset, tiny=False)
    x, cond = asked(net)
    with torch.no_grad():
        plain = [products(net, x, t, cond) for t in levels(0.9, 0.5, 0.1)]
        whole = [flops for flops, _ in plain]
        reuse = net.text_reuse()
        found = []
        for t in levels(0.9, 0.5, 0.1):
            with reuse:
                found.append(products(net, x, t, cond))
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(plain, found, strict=True))
        where = Coordinates.of_clip(token_grid(net.patch, *GRID))
        embedding = products(net.text, cond, NoiseLevels(levels(0.5)[0], net.patch[0], where))[0]
    blocks = [block.cross_attention for block in net.blocks if getattr(block, "cross_attention", None) is not None]
    saved = sum(2 * cond["text"].shape[:2].numel() * each.kv.weight.numel() for each in blocks)
    if "image" in cond:
        saved += sum(2 * cond["image"].shape[:2].numel() * each.image_kv.weight.numel() for each in blocks)
    assert bool(blocks) == (name in CROSS)
    saved = 0 if name == "hunyuan" else saved + embedding  # its text knows the noise level
    assert [flops for flops, _ in found] == [whole[0], whole[1] - saved, whole[2] - saved]
    assert saved > 0 or name in ("hunyuan", "latte")


@pytest.mark.parametrize("preset", TINY)
def test_no_family_is_given_a_text_of_another_level(randomised: Build, preset: str) -> None:
    """Blocks may change the text on the way, and its embedding may know the level: then it must be made anew."""
    net: Any = randomised(preset=preset, tiny=False)
    x, cond = asked(net)
    reuse = net.text_reuse()
    with torch.no_grad():
        for t in levels(0.9, 0.5):
            plain = net(x, t, cond)
            with reuse:
                assert torch.equal(net(x, t, cond), plain)


@pytest.mark.parametrize("name", CROSS)
def test_the_same_bits_under_autocast(randomised: Build, name: str) -> None:
    preset, overrides = PRESETS[name]
    net: Any = randomised(*overrides, preset=preset, tiny=False, dtype=torch.float32)
    x, cond = asked(net)
    x, cond = x.float(), {key: value.float() if value.is_floating_point() else value for key, value in cond.items()}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = [net(x, t.float(), cond) for t in levels(0.9, 0.5)]
        reuse = net.text_reuse()
        for t, plain in zip(levels(0.9, 0.5), wanted, strict=True):
            with reuse:
                assert torch.equal(net(x, t.float(), cond), plain)
    keys = [key for each in reuse.texts[0].tokens.kept.values() for key in each]
    assert keys and all(key.dtype == torch.bfloat16 for key in keys)


@pytest.mark.parametrize("name", CROSS)
def test_another_text_is_another_text(randomised: Build, name: str) -> None:
    preset, overrides = PRESETS[name]
    net: Any = randomised(*overrides, preset=preset, tiny=False)
    x, cond = asked(net)
    other, (t,) = asked(net, seed=1)[1], levels(0.5)
    with torch.no_grad(), net.text_reuse():
        cached = [net(x, t, each) for each in (cond, other, cond)]
        cond["text"].mul_(-1.5)  # the same tensor, and no longer the same text
        cached.append(net(x, t, cond))
    with torch.no_grad():
        changed = net(x, t, cond)
        cond["text"].div_(-1.5)
        wanted = [net(x, t, each) for each in (cond, other, cond)]
    torch.testing.assert_close(cached[:3], wanted)
    assert torch.equal(cached[3], changed) and not torch.allclose(cached[3], cached[0])
    assert not torch.allclose(cached[1], cached[0])


def test_nothing_is_left_behind(randomised: Build) -> None:
    net: Any = randomised(preset="wan21_tiny", tiny=False)
    x, cond = asked(net)
    runner, (t,) = net.runner, levels(0.5)
    reuse = net.text_reuse()
    with torch.no_grad(), pytest.raises(RuntimeError, match="stop"), reuse:
        net(x, t, cond)
        raise RuntimeError("stop")
    assert net.runner is runner and "read_text" not in vars(net)
    (kept,) = reuse.texts
    held = [weakref.ref(kept.tokens.cross), *(weakref.ref(key) for each in kept.tokens.kept.values() for key in each)]
    del kept, reuse
    gc.collect()
    assert not any(ref() is not None for ref in held)


def test_few_texts_are_kept(randomised: Build) -> None:
    net: Any = randomised(preset="wan21_tiny", tiny=False)
    x, cond = asked(net)
    texts = [{**cond, "text": cond["text"] + shift} for shift in range(MOST + 2)]
    reuse = net.text_reuse()
    with torch.no_grad(), reuse:
        for each in texts:
            net(x, levels(0.5)[0], each)
        assert [kept.inputs[0][0] is each["text"] for kept, each in zip(reuse.texts, texts[-MOST:], strict=True)] == [
            True
        ] * MOST


def test_blocks_that_are_left_out(randomised: Build) -> None:
    net: Any = randomised(preset="wan21_tiny", tiny=False)
    x, cond = asked(net)
    with torch.no_grad(), net.text_reuse():
        for t in levels(0.9, 0.5):
            whole = net(x, t, cond)
            with net.skipping([0]):
                without = net(x, t, cond)
            wanted = wanted_without(net, x, t, cond)
            assert torch.equal(without, wanted) and not torch.allclose(whole, without)


def wanted_without(net: Any, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """Without the first block, uncached: another tensor of the same text is another text."""
    fresh = {key: value.clone() for key, value in cond.items()}
    with net.skipping([0]):
        return net(x, t, fresh)


def test_training_is_not_touched(randomised: Build) -> None:
    net: Any = randomised(preset="wan21_tiny", tiny=False)
    x, cond = asked(net)
    (t,) = levels(0.5)
    weights = list(net.parameters())
    wanted = torch.autograd.grad(net(x, t, cond).square().sum(), weights)
    reuse = net.text_reuse()
    with reuse:
        with torch.no_grad():
            net(x, t, cond)
        for _ in range(2):
            torch.testing.assert_close(torch.autograd.grad(net(x, t, cond).square().sum(), weights), wanted)


def test_sharded_blocks_keep_their_keys_too(randomised: Build) -> None:
    """They gather their weights when they are called, and their attention makes the keys meanwhile."""
    net: Any = randomised(preset="wan21_tiny", tiny=False)
    x, cond = asked(net)
    with torch.no_grad():
        wanted = [products(net, x, t, cond) for t in levels(0.9, 0.5)]
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        mesh = init_device_mesh("cpu", (1,))
        for each in (*net.blocks, net):
            fully_shard(each, mesh=mesh)
        reuse = net.text_reuse()
        with torch.no_grad(), reuse:
            found = [products(net, x, t, cond) for t in levels(0.9, 0.5)]
    finally:
        dist.destroy_process_group()
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(wanted, found, strict=True))
    assert found[0][0] == wanted[0][0] and found[1][0] < wanted[1][0]
    assert len(reuse.texts) == 1 and len(reuse.texts[0].tokens.kept) == len(net.blocks)


def test_compiled_blocks_are_left_alone(randomised: Build) -> None:
    net: Any = randomised(preset="wan21_tiny", tiny=False)
    assert TextReuse(net).works
    block: nn.Module = net.blocks[1]
    block._compiled_call_impl = block._call_impl  # type: ignore[assignment]
    reuse = TextReuse(net)
    x, cond = asked(net)
    with torch.no_grad(), reuse:
        net(x, levels(0.5)[0], cond)
    assert not reuse.works and not reuse.texts
