"""Rotary positions in seconds and pixels."""

import math

import pytest
import torch
from torch import Tensor

from dit.codec.compression import Compression
from dit.net.coordinates import Coordinates
from dit.net.position.fractional import FractionalRoPE
from dit.net.position.rotary import HalfSplit, Interleaved
from tests.net.contexts import context_of

GRID = (3, 2, 4)
WHOLE = Coordinates.of_clip(GRID)
LIKE = torch.zeros(2, 5, 3, 2, 4, dtype=torch.float64)


STRIDE = {"f": 8.0, "h": 32.0, "w": 16.0}


def position(
    first: float | None = 1.0,
    width: int = 40,
    heads: int = 4,
    pairing: object = None,
    stride: dict[str, float] | None = STRIDE,
) -> FractionalRoPE:
    return FractionalRoPE(
        width,
        width // heads,
        theta=100.0,
        extent={"f": 20.0, "h": 2048.0, "w": 1024.0},
        stride=stride,
        first=first,
        fps=25.0,
        pairing=pairing or Interleaved(),
    )


def coordinates(first: float, fps: float) -> Tensor:
    """(3, N), written down token by token."""
    rows = [
        (max(0, first + 8 * f - 8) / fps, 32 * h, 16 * w)
        for f in range(GRID[0])
        for h in range(GRID[1])
        for w in range(GRID[2])
    ]
    return torch.tensor(rows, dtype=torch.float64).T


def same(one: FractionalRoPE, cond: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    a, b = one.rotation(WHOLE, LIKE, cond), one.rotation(WHOLE, LIKE, other)
    return bool(torch.allclose(a.cos, b.cos, atol=1e-12) and torch.allclose(a.sin, b.sin, atol=1e-12))


@pytest.mark.parametrize("first", [1.0, 8.0])
def test_where_tokens_are_when_cond_does_not_say_it(first: float) -> None:
    rope = position(first)
    assert same(rope, {}, {"coordinates": coordinates(first, 25.0)[None]})
    rates = torch.stack([coordinates(first, 16.0), coordinates(first, 30.0)])
    assert same(rope, {"fps": torch.tensor([16.0, 30.0])}, {"coordinates": rates})
    assert not same(rope, {}, {"fps": torch.tensor([24.0])})


@pytest.mark.parametrize("causal", [True, False])
def test_the_codec_says_where_tokens_are(causal: bool) -> None:
    """Its stride, and how many frames the first latent frame stands for; `first` alone is the model's own word."""
    told = position(first=None, stride=None)
    told.on_latents(Compression((8, 32, 16), causal), (1, 1, 1))
    assert same(told, {}, {"coordinates": coordinates(1.0 if causal else 8.0, 25.0)[None]})
    patched = position(first=None, stride=None)
    patched.on_latents(Compression((4, 16, 16), causal), (2, 2, 1))
    assert same(patched, {}, {"coordinates": coordinates(5.0 if causal else 8.0, 25.0)[None]})
    whole = position(first=8.0, stride=None)
    whole.on_latents(Compression((8, 32, 16), causal), (1, 1, 1))
    assert same(whole, {}, {"coordinates": coordinates(8.0, 25.0)[None]})
    own = position()
    own.on_latents(Compression((2, 3, 4), causal), (1, 1, 1))
    assert same(own, {}, {"coordinates": coordinates(1.0, 25.0)[None]})


def test_before_a_codec_is_known_latents_are_pixels() -> None:
    counted = coordinates(8.0, 8 * 25.0) / torch.tensor([[1.0], [32.0], [16.0]], dtype=torch.float64)
    assert same(position(first=None, stride=None), {}, {"coordinates": counted[None]})
    with pytest.raises(ValueError, match="wants position.first"):
        position(first=None)


def test_a_network_tells_its_positions(randomised) -> None:
    net = randomised(preset="ltx_video_tiny", tiny=False)
    x = torch.randn(1, 16, 3, 2, 4, dtype=torch.float64)
    cond = {"text": torch.randn(1, 5, 128, dtype=torch.float64)}
    t = torch.full((1, 1), 0.3, dtype=torch.float64)
    counted = net(x, t, cond)
    told = net.on_latents(Compression((8, 32, 32), causal=True))(x, t, cond)
    assert not torch.allclose(told, counted)
    where = coordinates(1.0, 25.0) * torch.tensor([[1.0], [1.0], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(told, net(x, t, {**cond, "coordinates": where[None]}))


def test_a_scale_of_tokens() -> None:
    scale = torch.tensor([[8 / 25, 32, 16], [8 / 30, 30, 10]], dtype=torch.float64)
    token = coordinates(8.0, 8.0) / torch.tensor([[1.0], [32.0], [16.0]], dtype=torch.float64)  # counted
    assert same(position(), {"rope_scale": scale}, {"coordinates": scale[:, :, None] * token})


@pytest.mark.parametrize("pairing", [Interleaved(), HalfSplit()])
def test_each_pair_of_each_head_turns_by_its_own_angle(pairing: object) -> None:
    rope = position(pairing=pairing)
    rotation = rope.rotation(WHOLE, LIKE, {})
    assert rotation.cos.shape == (1, 24, 4, 10)
    share = coordinates(1.0, 25.0) / torch.tensor([[20.0], [2048.0], [1024.0]], dtype=torch.float64)
    x = torch.randn(1, 24, 4, 10, dtype=torch.float64, generator=torch.manual_seed(0))
    rotated = rotation.rotate(x)
    pairs = 40 // 6
    for n in (0, 11, 23):
        for pair in range(20):
            head, within = divmod(pair, 5)
            index = pair - (20 - 3 * pairs)
            frequency = math.pi / 2 * 100.0 ** (index // 3 / (pairs - 1))
            angle = frequency * (2 * share[index % 3, n].item() - 1) if index >= 0 else 0.0
            i, j = (2 * within, 2 * within + 1) if isinstance(pairing, Interleaved) else (within, within + 5)
            a, b = x[0, n, head, i].item(), x[0, n, head, j].item()
            wanted = (a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle))
            assert rotated[0, n, head, [i, j]].tolist() == pytest.approx(wanted, abs=1e-12)


def test_text_of_a_joint_sequence_is_not_rotated() -> None:
    cond = {"fps": torch.tensor([16.0, 30.0])}
    rotation = position().rotation(WHOLE, LIKE, cond)
    context = context_of(WHOLE, text=torch.zeros(2, 3, 40), rotation=rotation)
    x = torch.randn(2, 27, 4, 10, dtype=torch.float64)
    rotated = context.rotation.rotate(x)
    torch.testing.assert_close(rotated[:, :3], x[:, :3], rtol=0, atol=0)
    torch.testing.assert_close(rotated[:, 3:], rotation.rotate(x[:, 3:]), rtol=0, atol=0)


@pytest.mark.parametrize(
    "cond, message",
    [
        ({"coordinates": torch.zeros(2, 3, 5)}, r"shape \(2, 3, 5\); it must be \(batch, 3, 24 tokens\)"),
        ({"rope_scale": torch.zeros(3)}, r"shape \(3,\); it must be \(batch, 3\)"),
    ],
)
def test_shapes_that_do_not_fit(cond: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        position().rotation(WHOLE, LIKE, cond)


def test_odd_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="even head size"):
        position(width=12, heads=4)


@pytest.mark.parametrize(
    "override", ["net/position=sincos", "net/qk_norm=none", "net.pattern=ST", "net/norm=layernorm"]
)
def test_ltx_is_ablated_from_the_command_line(randomised, override: str) -> None:
    net = randomised(override, preset="ltx_video_tiny", tiny=False)
    x = torch.randn(2, 16, 3, 2, 4, dtype=torch.float64)
    cond = {"text": torch.randn(2, 5, 128, dtype=torch.float64), "fps": torch.tensor([24.0, 30.0])}
    assert net(x, torch.full((2, 1), 0.3, dtype=torch.float64), cond).isfinite().all()
