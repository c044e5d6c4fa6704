"""Our own video autoencoder: causal, the same in pieces as whole, and a codec out of the run that trained it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit.checkpoint import entries
from dit.codec.compression import Compression
from dit.codec.tiling import Tiling
from dit.codec.vae.codec import VAE
from dit.codec.vae.layers import CausalConv, Longer, Shorter, Stream, folded, unfolded
from dit.codec.vae.network import Autoencoder, Moments
from dit.config.kinds import TARGET

SETTINGS: dict[str, Any] = {
    "latent_channels": 3, "widths": [8, 12], "strides": [[1, 2, 2], [2, 2, 1]], "encoder_blocks": [1, 1],
    "decoder_blocks": [1, 1], "kernel": 3,
}  # fmt: skip
# Strides in time once, twice, and as long as the kernel; one frame to a latent; a kernel of one frame.
KINDS: dict[str, dict[str, Any]] = {
    "2": SETTINGS,
    "4 = 2 x 2": {**SETTINGS, "strides": [[2, 2, 2], [2, 1, 1]]},
    "3": {**SETTINGS, "strides": [[3, 4, 4], [1, 1, 1]], "encoder_blocks": [0, 0]},
    "1": {**SETTINGS, "strides": [[1, 2, 2], [1, 1, 1]], "kernel": 2},
    "frames alone": {**SETTINGS, "strides": [[1, 2, 2], [1, 1, 1]], "kernel": 1},
}
NODE = {TARGET: "dit.codec.vae.network.Autoencoder", **SETTINGS}
CODEC: dict[str, Any] = {
    "weights": "ema", "fingerprint": None, "posterior": "mode", "batch": None, "frames": None, "tiling": None
}  # fmt: skip


def network(name: str = "2", dtype: torch.dtype = torch.float64) -> Autoencoder:
    """All weights random: what begins as nothing would hide what it does."""
    torch.manual_seed(0)
    net = Autoencoder(**KINDS[name]).to(dtype).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3 if parameter.dim() > 1 else 1.0)
        net.moments.observe(torch.randn(2, 3, 2, 4, 4) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1) + 1)
    return net


def clip(net: Autoencoder, latents: int = 4, height: int = 8, width: int = 8) -> Tensor:
    frames = net.compression.pixel_shape(latents, 1, 1)[0]
    dtype = next(net.parameters()).dtype
    return torch.rand(2, 3, frames, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 2 - 1


def leave(folder: Path, net: Autoencoder, **content: Any) -> Path:
    """A run of which `net` is the average, and something else the raw weights."""
    state = {f"net.{key}": value for key, value in net.state_dict().items()}
    averaged = {f"net.{key}": value for key, value in net.named_parameters()}
    raw = {key: value + (0.5 if key in averaged else 0) for key, value in state.items()}
    file = folder / "checkpoints/last.ckpt"
    file.parent.mkdir(parents=True, exist_ok=True)
    saved: dict[str, Any] = {}
    entries.WEIGHTS.put(saved, {**raw, "discriminator.last.bias": torch.zeros(1)})
    entries.AVERAGES.put(saved, {"wide": raw, "narrow": {key: value.detach() for key, value in averaged.items()}})
    entries.CONFIG.put(saved, {"net": NODE, "ema": {"use": "narrow"}})
    torch.save({**saved, **content}, file)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return leave(tmp_path / "vae", network(dtype=torch.float32))


# -- the network


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_no_frame_sees_a_later_one(name: str) -> None:
    """Each frame is spoiled in turn: latents that end before it are the same bits, and so are the frames before the
    group of frames that its latent stands for. Others do change: it is seen."""
    net = network(name)
    pixels = clip(net)
    latents, rule = net.encode(pixels)[0], net.compression
    made = net.decode(latents)
    assert latents.shape[2] == 4 and made.shape == pixels.shape
    for frame in range(pixels.shape[2]):
        spoiled = pixels.clone()
        spoiled[:, :, frame] += 1
        changed = net.encode(spoiled)[0]
        first = rule.latent_of(frame)
        assert torch.equal(changed[:, :, :first], latents[:, :, :first])
        assert not torch.equal(changed[:, :, first], latents[:, :, first])
        again = net.decode(changed)
        begin = rule.first_frame(first)
        assert torch.equal(again[:, :, :begin], made[:, :, :begin])
        assert not torch.isclose(again[:, :, begin], made[:, :, begin]).all()


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_in_pieces_as_whole(name: str) -> None:
    """Whatever the pieces: all ways to cut four latent frames."""
    net = network(name)
    pixels = clip(net)
    mean, log_variance = net.encode(pixels)
    made = net.decode(mean)
    first = net.compression.first_frame
    for cuts in itertools.chain.from_iterable(itertools.combinations((1, 2, 3), count) for count in range(4)):
        ends = list(itertools.pairwise((0, *cuts, 4)))
        coding, decoding = Stream(), Stream()
        coded = [net.encode(pixels[:, :, first(a) : first(b)], coding) for a, b in ends]
        decoded = [net.decode(mean[:, :, a:b], decoding) for a, b in ends]
        torch.testing.assert_close(torch.cat([each[0] for each in coded], 2), mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(torch.cat([each[1] for each in coded], 2), log_variance, rtol=0, atol=1e-12)
        torch.testing.assert_close(torch.cat(decoded, 2), made, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_a_picture_is_a_clip_of_one_frame(name: str) -> None:
    net = network(name)
    pixels = clip(net)
    latents, alone = net.encode(pixels)[0], net.encode(pixels[:, :, :1])[0]
    assert alone.shape[2] == 1
    torch.testing.assert_close(alone, latents[:, :, :1], rtol=0, atol=1e-12)
    picture = net.decode(alone)
    assert picture.shape == pixels[:, :, :1].shape
    torch.testing.assert_close(picture, net.decode(latents)[:, :, :1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_strides_and_legal_clips(name: str) -> None:
    net = network(name)
    wanted = tuple(a * b for a, b in zip(*KINDS[name]["strides"], strict=True))
    assert net.stride == wanted and net.compression == Compression(net.stride, causal=True)
    pixels = clip(net, latents=3, height=8, width=12)
    shape = net.compression.latent_shape(*pixels.shape[2:])
    assert net.encode(pixels)[0].shape == (2, 3, *shape) == (2, 3, 3, 8 // wanted[1], 12 // wanted[2])
    assert net.num_tokens(*pixels.shape[2:]) == shape[0] * shape[1] * shape[2]
    if wanted[0] > 1:
        with pytest.raises(ValueError, match=rf"num_frames={wanted[0] + 2} is not {wanted[0]}k\+1 for this autoenc"):
            net.num_tokens(wanted[0] + 2, 8, 8)


def test_a_convolution_is_the_sum_that_it_should_be() -> None:
    """By hand: output k is the sum over the frames f k - 2, f k - 1, f k, and before the clip is its first frame."""
    torch.manual_seed(0)
    for stride in (1, 2, 3):
        conv = CausalConv(1, 1, kernel=3, stride=stride).double()
        x = torch.randn(1, 1, 7, 3, 3, dtype=torch.float64)
        weight, bias = conv.weight.view(3, 3, 3), conv.bias
        found = conv(x)[0, 0, :, 1, 1]
        frames = [[max(0, stride * k - back) for back in (2, 1, 0)] for k in range(len(found))]
        by_hand = [
            sum((weight[i] * x[0, 0, frame]).sum() for i, frame in enumerate(three)) + bias[0] for three in frames
        ]
        assert len(found) == 6 // stride + 1
        torch.testing.assert_close(found, torch.stack(by_hand))


def test_places_become_channels_and_back() -> None:
    x = torch.arange(2 * 3 * 2 * 4 * 6).view(2, 3, 2, 4, 6)
    y = folded(x, 2, 3)
    assert y.shape == (2, 18, 2, 2, 2)
    assert all(
        y[1, (c * 2 + i) * 3 + j, 1, 1, 0] == x[1, c, 1, 2 + i, j] for c in range(3) for i in (0, 1) for j in range(3)
    )
    assert torch.equal(unfolded(y, 2, 3), x)


def test_longer_undoes_the_shape_of_shorter() -> None:
    shorter, longer = Shorter(3, 5, (2, 2, 4), kernel=3), Longer(5, 3, (2, 2, 4), kernel=3)
    x = torch.randn(1, 3, 5, 4, 8)
    assert shorter(x, None).shape == (1, 5, 3, 2, 2) and longer(shorter(x, None), None).shape == x.shape


def test_training_draws_latents_and_notes_their_moments() -> None:
    """The moments are of what the decoder sees; they are in the state, so that a run goes on with them."""
    net = network().train()
    pixels = clip(net)
    torch.manual_seed(3)
    coded = net(pixels)
    torch.manual_seed(3)
    z = coded.mean + (0.5 * coded.log_variance).exp() * torch.randn_like(coded.mean)
    torch.testing.assert_close(net.decode(z), coded.pixels)
    assert not torch.allclose(net.eval()(pixels).pixels, coded.pixels)
    torch.testing.assert_close(net.decode(coded.mean), net(pixels).pixels)

    moments = Moments(3)
    clips = [torch.randn(4, 3, 2, 4, 4) * torch.tensor([1.0, 0.1, 4.0]).view(3, 1, 1, 1) + 2 for _ in range(50)]
    for each in clips:
        moments.observe(each)
    every = torch.cat(clips).transpose(0, 1).flatten(1)
    torch.testing.assert_close(moments.mean, every.mean(1))
    torch.testing.assert_close(moments.std, every.std(1), rtol=1e-3, atol=0)
    unit = moments.to_unit(torch.cat(clips))
    torch.testing.assert_close(unit.std((0, 2, 3, 4)), torch.ones(3), rtol=1e-3, atol=0)
    torch.testing.assert_close(moments.from_unit(unit), torch.cat(clips))
    for _ in range(1000):  # of late: what was long ago is forgotten
        moments.observe(torch.zeros(1, 3, 1, 1, 1))
    assert moments.mean.abs().max() < 1e-3
    assert {"moments.count", "moments.mean", "moments.square"} < net.state_dict().keys()


def test_the_gradient_of_the_last_layer() -> None:
    """What autograd gives for the weight itself."""
    net = network("4 = 2 x 2")
    made = net(clip(net))
    loss = made.pixels.square().mean()
    wanted, of_pixels = torch.autograd.grad(loss, [net.decoder.last.conv.weight, made.pixels])
    torch.testing.assert_close(net.last_gradient(made.features, of_pixels), wanted)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"strides": [[1, 2, 2]]}, "net.strides has 1 entries, and net.widths 2: one for each stage"),
        ({"widths": []}, "net.strides has 2 entries, and net.widths 0"),
        ({"decoder_blocks": [1, 1, 1]}, "net.decoder_blocks has 3 entries"),
        ({"kernel": 1}, "net.kernel=1 is less than the stride of 2 frames; nearest: 2"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Autoencoder(**{**SETTINGS, **changes})


# -- the codec


@torch.no_grad()
def test_the_codec_of_a_run(run: Path) -> None:
    """The averaged weights that previews showed, latents of unit scale, and back."""
    codec, net = VAE(str(run), **CODEC), network(dtype=torch.float32)
    pixels = clip(net)
    assert (codec.channels, codec.stride, codec.causal) == (3, (2, 4, 2), True)
    assert codec.latent_shape(7, 8, 8) == (4, 2, 4)
    with pytest.raises(ValueError, match=r"num_frames=8 is not 2k\+1 for VAE; nearest: 7, 9"):
        codec.encode(pixels.repeat(1, 1, 2, 1, 1)[:, :, :8])
    latents, mean = codec.encode(pixels), net.encode(pixels)[0]
    torch.testing.assert_close(latents, (mean - net.moments.mean.view(3, 1, 1, 1)) / net.moments.std.view(3, 1, 1, 1))
    torch.testing.assert_close(codec.decode(latents), net.decode(mean).clamp(-1, 1), rtol=1e-4, atol=1e-5)
    raw = VAE(str(run / "checkpoints/last.ckpt"), **{**CODEC, "weights": "raw"})
    assert not torch.allclose(raw.encode(pixels), latents)
    assert torch.equal(raw.encode(pixels), VAE(str(run), **{**CODEC, "weights": "wide"}).encode(pixels))
    assert all(not parameter.requires_grad for parameter in codec.parameters())


@torch.no_grad()
def test_samples_are_drawn_in_training_alone(run: Path) -> None:
    codec = VAE(str(run), **{**CODEC, "posterior": "sample"})
    pixels = clip(network(dtype=torch.float32))
    assert not torch.equal(codec.train().encode(pixels), codec.encode(pixels))
    assert torch.equal(codec.eval().encode(pixels), codec.encode(pixels))
    assert not VAE(str(run), **CODEC).train().net.training


@pytest.mark.parametrize("changes", [{"frames": 1}, {"frames": 3}, {"batch": 1}, {"frames": 2, "batch": 1}])
@torch.no_grad()
def test_frames_at_once_change_nothing(run: Path, changes: dict[str, Any]) -> None:
    whole, parts = VAE(str(run), **CODEC), VAE(str(run), **{**CODEC, **changes})
    pixels = clip(network(dtype=torch.float32))
    latents = whole.encode(pixels)
    torch.testing.assert_close(parts.encode(pixels), latents, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.decode(latents), whole.decode(latents), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype, near", [("float64", 1e-5), ("bfloat16", 0.1)])
@torch.no_grad()
def test_its_arithmetic_has_a_dtype_of_its_own(run: Path, dtype: str, near: float) -> None:
    """Pixels and latents outside stay in theirs, and latents of unit scale."""
    plain, other = VAE(str(run), **CODEC), VAE(str(run), **CODEC, dtype=dtype)
    assert {each.dtype for each in other.parameters()} == {getattr(torch, dtype)}
    assert other.identified() == plain.identified()
    pixels = clip(network(dtype=torch.float32))
    latents = plain.encode(pixels)
    for found, wanted in ((other.encode(pixels), latents), (other.decode(latents), plain.decode(latents))):
        assert found.dtype == torch.float32 and 0 < (found - wanted).abs().max() < near * wanted.abs().max()


@torch.no_grad()
def test_tiles_are_exact_away_from_their_edges(run: Path) -> None:
    """Norms are of one place, so that only zeros beside a tile make a difference: none in the middle of a large one."""
    tiled = VAE(str(run), **{**CODEC, "tiling": Tiling(None, 128, None, overlap=0.25)})
    whole, pixels = VAE(str(run), **CODEC), clip(network(dtype=torch.float32), 1, height=160, width=4)
    latents, in_tiles = whole.encode(pixels), tiled.encode(pixels)
    for part in (slice(None, 8), slice(32, None)):  # of which one tile says all
        torch.testing.assert_close(in_tiles[..., part, :], latents[..., part, :], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(in_tiles, latents, atol=1e-5)
    assert tiled.decode(latents).shape == pixels.shape


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    """One line each, which names the key."""

    def refused(said: str, ckpt: str | None = str(run), **changes: Any) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            VAE(ckpt, **{**CODEC, **changes})
        assert "\n" not in str(caught.value) and "codec." in str(caught.value)

    refused("codec.ckpt is not given: the run of an autoencoder", None)
    refused(r"codec.ckpt=\S*/vee: checkpoint or run \S*vee is not there; in \S*: vae", str(tmp_path / "vee"))
    refused("codec.ckpt=.*: weights=other is not in .*; there are: raw, ema, wide, narrow", weights="other")
    mark = VAE(str(run), **CODEC).identified()
    assert VAE(str(run), **{**CODEC, "fingerprint": mark}).identified() == mark
    refused(
        f"is not what this was trained with: its weights have the fingerprint {mark}, needed 0123", fingerprint="0123"
    )
    refused("codec.frames=8, and codec.tiling.num_frames=null", tiling=Tiling(4, None, None, overlap=0.25))

    net = network(dtype=torch.float32)
    with torch.no_grad():
        net.decoder.last.conv.weight[0, 0] += 1e-6
    leave(run, net)
    refused("is not what this was trained with", fingerprint=mark)
    leave(run, net, config={"net": {TARGET: "dit.net.backbone.Backbone"}})
    refused("last.ckpt is of 'dit.net.backbone.Backbone', and no autoencoder: train one with experiment=vae_world")
    leave(run, net, config={"net": {**NODE, "widths": [8, 16]}})
    refused(r"last.ckpt: \S+ is torch.float32 \(12, 432\), needed torch.float32 \(16, 432\)")
    leave(run, net, config={"net": {**NODE, "decoder_blocks": [2, 1]}})
    refused(r"does not fit its own config: decoder.stages.1.layers.\S+ is not in the file")
    leave(run, net, config={"net": {**NODE, "encoder_blocks": [1, 10**9]}})
    refused(r"last.ckpt: net.encoder_blocks=\[1, 1000000000\], but the file holds \d+ tensors")
    leave(run, net, config={"net": {**NODE, "widths": [8, {TARGET: "os.system"}]}})
    refused("net.widths.1.*os.system")
    leave(run, net, state_dict={"net.a": 3})
    refused("'net.a' of its state_dict is no tensor")
    (run / "checkpoints/last.ckpt").write_bytes(b"nothing")
    refused("cannot be read as a checkpoint .*take another one of the run")


def test_nothing_is_read_into_memory_to_count_it(run: Path) -> None:
    with torch.device("meta"):
        codec = VAE(str(run), **CODEC)
    assert all(each.is_meta for each in codec.state_dict().values())
    assert codec.identified() == VAE(str(run), **CODEC).identified()
