"""The whole network: what its contract in docs/architecture.md promises, for many combinations of parts."""

import copy

import pytest
import torch
from torch import Tensor

from dit.net.backbone import Backbone
from dit.net.coordinates import Coordinates
from dit.net.embed import LevelVector
from dit.net.sequence import NoiseLevels

SIZE = (4, 6, 5)  # latent frames, height, width: all different; (2, 3, 5) tokens under the tiny patch [2, 2, 1]

COMBINATIONS = {
    "demo": [],
    "joint": ["net/text=joint", "net/position=rope3d"],
    "joint behind, single, alternating": ["net/text=joint_behind", "net/modulation=adaln_single", "net.pattern=ST"],
    "joint, per token, windows": [
        *("net/text=joint", "net/position=rope3d", "net.position.pairing._target_=dit.net.position.rotary.Interleaved"),
        *("net.pattern=WWP", "net.depth=3", "net.templates.W.layout.window=[1,2,3]"),
    ],
    "parallel": ["net.pattern=P", "net/modulation=adaln_single", "net/qk_norm=layernorm"],
    "all vectors": ["net/label=classes", "net/pooled=mlp", "net/fps=sinusoid", "net/qk_norm=rms_across_heads"],
    "learned, rms, swiglu": ["net/position=learned", "net/norm=rmsnorm", "net/mlp=swiglu", "net/qk_norm=none"],
    "no text": ["net/text=none", "net/position=none", "net/mlp=gelu", "net.pattern=FST", "net/init=normal"],
}
combinations = pytest.mark.parametrize("parts", COMBINATIONS.values(), ids=COMBINATIONS)


def inputs(dtype: torch.dtype = torch.float64, size: tuple[int, int, int] = SIZE) -> tuple[Tensor, dict[str, Tensor]]:
    """x of two samples, and every conditioning key; the captions have 3 and 5 tokens of 5."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    given = (torch.rand(2, 1, *size, generator=generator) < 0.5).to(dtype)
    text_mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    cond = {"text": randn(2, 5, 10), "text_mask": text_mask, "pooled": randn(2, 10), "given": given}
    cond |= {"label": torch.tensor([4, 1000]), "fps": torch.tensor([8.0, 24.0], dtype=dtype)}
    return randn(2, 3, *size), cond


def levels(frames: int = SIZE[0]) -> Tensor:
    return torch.rand(2, frames, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@combinations
def test_equal_levels_for_each_frame_are_one_level_a_sample(randomised, parts: list[str]) -> None:
    net, (x, cond), t = randomised(*parts), inputs(), levels(1)
    one = net(x, t, cond)
    assert one.shape == (2, 5, *SIZE)
    torch.testing.assert_close(net(x, t.expand(-1, SIZE[0]), cond), one, rtol=1e-9, atol=1e-9)
    assert (net(x, levels(), cond) - one).abs().max() > 1e-3


def test_a_frames_level_reaches_its_own_tokens_alone(randomised) -> None:
    """With spatial attention nothing else passes between frames. Two latent frames share a token and so both move."""
    net, (x, cond), t = randomised("net.pattern=S"), inputs(), levels()
    changed = t.clone()
    changed[:, 2] = 1 - changed[:, 2]
    moved = (net(x, changed, cond) - net(x, t, cond)).abs().amax(dim=(1, 3, 4))  # (B, F)
    assert (moved[:, :2] == 0).all() and (moved[:, 2:] > 1e-4).all()


def test_a_token_of_several_frames_takes_the_mean_of_their_embeddings(randomised) -> None:
    net, (_, cond), t = randomised(), inputs(), levels()
    embedded = net.level(t)
    torch.testing.assert_close(
        net.level_vectors(NoiseLevels(t, 2, Coordinates.of_clip((2, 3, 5))), cond, None),
        (embedded[:, ::2] + embedded[:, 1::2]) / 2,
    )


class PerFrame(LevelVector):
    """A vector for each latent frame, whatever the levels are: an action, a camera."""

    def forward(self, value: Tensor) -> Tensor:
        return value

    def at(self, value: Tensor, t: Tensor) -> Tensor:
        return self(value)


def test_vectors_of_each_frame_join_one_level_and_equal_levels_alike(randomised) -> None:
    net, (x, cond), t = randomised(), inputs(), levels(1)
    net.vectors["action"] = PerFrame()
    cond["action"] = torch.randn(2, SIZE[0], net.width, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    out = net(x, t, cond)
    torch.testing.assert_close(net(x, t.expand(-1, SIZE[0]), cond), out, rtol=1e-9, atol=1e-9)
    assert (net(x, t, cond | {"action": cond["action"].flip(1)}) - out).abs().max() > 1e-3
    with pytest.raises(ValueError, match="level vectors are of 3 frames; they must be of 1 or of 4"):
        net(x, t, cond | {"action": cond["action"][:, :3]})


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 8)])
def test_levels_of_another_shape_are_an_error(build, shape: tuple[int, ...]) -> None:
    x, cond = inputs()
    with pytest.raises(ValueError, match=r"t has shape .* \(batch, 1\) or \(batch, 4 latent frames\)"):
        build()(x, torch.zeros(shape, dtype=torch.float64), cond)


@pytest.mark.parametrize("text", ["cross", "joint", "joint_behind"])
@pytest.mark.parametrize("pattern", ["F", "ST", "W", "P"])
def test_padding_is_hidden(randomised, text: str, pattern: str) -> None:
    net = randomised(f"net/text={text}", f"net.pattern={pattern}", "net.templates.W.layout.window=[1,2,3]")
    (x, cond), t = inputs(), levels(1)
    before = net(x, t, cond)
    padded, real = cond["text"].clone(), cond["text"].clone()
    padded[0, 3:] += 10 * torch.randn(2, 10, dtype=torch.float64)
    real[0, 2] += 1
    torch.testing.assert_close(net(x, t, cond | {"text": padded}), before, rtol=1e-9, atol=1e-9)
    change = (net(x, t, cond | {"text": real}) - before).abs().amax(dim=(1, 2, 3, 4))
    assert change[0] > 1e-4 and change[1] == 0
    shorter = {"text": cond["text"][:1, :3], "text_mask": cond["text_mask"][:1, :3], "given": cond["given"][:1]}
    torch.testing.assert_close(net(x[:1], t[:1], shorter), before[:1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", ["cross", "joint"])
def test_a_sample_without_any_real_text_is_finite_and_hides_its_padding(randomised, text: str) -> None:
    net, (x, cond), t = randomised(f"net/text={text}"), inputs(), levels(1)
    cond["text_mask"] = torch.zeros(2, 5, dtype=torch.bool)
    cond["text"].requires_grad_()
    out = net(x, t, cond)
    (grad,) = torch.autograd.grad(out.sum(), cond["text"])
    assert out.isfinite().all() and not grad.any()
    torch.testing.assert_close(net(x, t, cond | {"text": -cond["text"]}), out, rtol=1e-9, atol=1e-9)


def test_text_without_a_mask_is_all_real(randomised) -> None:
    net, (x, cond), t = randomised(), inputs(), levels(1)
    every = net(x, t, cond | {"text_mask": torch.ones(2, 5, dtype=torch.bool)})
    del cond["text_mask"]
    torch.testing.assert_close(net(x, t, cond), every)


@pytest.mark.parametrize("key", ["given", "text", "label", "pooled", "fps"])
def test_each_condition_matters_to_its_own_sample_and_is_missed(randomised, key: str) -> None:
    net, (x, cond), t = randomised(*COMBINATIONS["all vectors"]), inputs(), levels(1)
    other = cond[key].clone()
    other[0] = 1 - other[0] if key == "given" else other[0] + 1
    moved = (net(x, t, cond | {key: other}) - net(x, t, cond)).abs().amax(dim=(1, 2, 3, 4))
    assert moved[0] > 1e-5 and moved[1] == 0
    del cond[key]
    with pytest.raises(ValueError, match=f"needs cond\\['{key}'\\], and got only: "):
        net(x, t, cond)


def test_conditions_that_the_network_does_not_use_are_ignored(randomised) -> None:
    net = randomised("net/text=none", "net.concat_channels.given=null")
    (x, cond), t = inputs(), levels(1)
    torch.testing.assert_close(net(x, t, cond), net(x, t, {}), rtol=0, atol=0)


@combinations
def test_fresh_network_puts_out_zero_and_its_blocks_change_nothing(build, parts: list[str]) -> None:
    net, (x, cond) = build(*parts), inputs()
    assert not net(x, levels(), cond).any()
    torch.nn.init.normal_(net.final.linear.weight)
    out = net(x, levels(1), cond)
    assert out.any()
    net.blocks = net.blocks[:0]
    torch.testing.assert_close(net(x, levels(1), cond), out, rtol=1e-9, atol=1e-9)


@combinations
def test_every_parameter_gets_a_gradient(randomised, parts: list[str]) -> None:
    net, (x, cond) = randomised(*parts), inputs()
    net(x, levels(), cond).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("parts", [["net/text=joint"], ["net.pattern=PW", "net/modulation=adaln_single"]])
@pytest.mark.parametrize("every", [1, 2])
def test_checkpointing_changes_no_gradient(randomised, parts: list[str], every: int) -> None:
    (x, cond), t = inputs(), levels()
    gradients, calls = [], []
    for choice in (["net/checkpointing=none"], ["net/checkpointing=blocks", f"net.checkpointing.every={every}"]):
        net = randomised(*parts, *choice, "net.depth=3")
        count = [0]
        for block in net.blocks:
            block.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        net(x, t, cond).square().sum().backward()
        gradients.append([p.grad for p in net.parameters()])
        calls.append(count[0])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert calls == [3, 6 if every == 1 else 5]


@combinations
def test_from_the_meta_device(build, parts: list[str]) -> None:
    with torch.device("meta"):
        net = build(*parts, dtype=torch.float32)
    net = net.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(float("nan"))
    net.init_weights()
    assert all(p.isfinite().all() for p in net.parameters())
    x, cond = inputs(torch.float32)
    assert not net(x, levels(1).float(), cond).any()


@pytest.mark.parametrize("name", ["joint, per token, windows", "all vectors"])
def test_copies_pickles_and_compiles(randomised, name: str, tmp_path) -> None:
    net, (x, cond), t = randomised(*COMBINATIONS[name]), inputs(), levels()
    out = net(x, t, cond)
    torch.testing.assert_close(copy.deepcopy(net)(x, t, cond), out, rtol=0, atol=0)
    torch.save(net, tmp_path / "net.pt")
    torch.testing.assert_close(torch.load(tmp_path / "net.pt", weights_only=False)(x, t, cond), out, rtol=0, atol=0)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)  # traced as a whole, without a compiler
    torch.testing.assert_close(compiled(x, t, cond), out, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("position", ["rope3d", "sincos", "learned", "none"])
@pytest.mark.parametrize("size", [(2, 2, 1), (6, 4, 9), (8, 10, 3)])
def test_any_grid_at_run_time(randomised, position: str, size: tuple[int, int, int]) -> None:
    net = randomised(f"net/position={position}")
    x, cond = inputs(size=size)
    out = net(x, levels(1), cond)
    assert out.shape == (2, 5, *size) and out.isfinite().all()
    assert net.num_tokens(*size) == size[0] * size[1] * size[2] // 4


@pytest.mark.parametrize("position", ["rope3d", "sincos", "learned"])
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_positions_tell_the_axes_apart(randomised, position: str, axis: int) -> None:
    """Without positions a network of full attention commutes with exchanging patches; with them it must not."""
    (x, cond), t = inputs(), levels(1)
    swap = {2: [2, 3, 0, 1], 3: [2, 3, 0, 1, 4, 5], 4: [1, 0, 2, 3, 4]}[axis]
    index = torch.tensor(swap)
    for kind, commutes in ((position, False), ("none", True)):
        net = randomised(f"net/position={kind}")
        other = net(x.index_select(axis, index), t, cond | {"given": cond["given"].index_select(axis, index)})
        assert torch.allclose(other, net(x, t, cond).index_select(axis, index), rtol=1e-8, atol=1e-8) == commutes


@combinations
def test_half_precision_under_autocast(randomised, parts: list[str]) -> None:
    net, (x, cond), t = randomised(*parts, dtype=torch.float32), inputs(torch.float32), levels().float()
    full = net(x, t, cond)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net(x, t, cond)
    assert (half.float() - full).abs().mean() < 0.05 * full.abs().mean()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["net.width=50"], "width=50 is not a multiple of heads=4; nearest: 48, 52"),
        (["net.pattern=FXF"], "pattern='FXF' must be of block templates F, S, T, W, .*; unknown: X"),
        (["net.pattern=''"], "pattern=''"),
        (["net/position=rope3d", "net.heads=24"], "head size 2 has 1 pairs"),
        (["net/position=rope3d", "net.heads=16"], "even head size, not 3; nearest: 2, 4"),
        (["net/checkpointing=blocks", "net.checkpointing.every=0"], "every=0 must be at least 1"),
        (["net/modulation=adaln_single", "net/templates=three_branch"], "a block 6 vectors, and this one needs 9"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(build, overrides: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message) as error:
        build(*overrides)
    cause = error.value if isinstance(error.value, ValueError) else error.value.__cause__
    assert isinstance(cause, ValueError) and "\n" not in str(cause)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, cond: (x[:, :, :3], cond), "frames=3 is not a multiple of the patch's 2; nearest: 2, 4"),
        (lambda x, cond: (x[:, :2], cond), "x has 2 channels; this network has in_channels=3"),
        (lambda x, cond: (x, cond | {"given": x}), "cond\\['given'\\] has 3 channels; concat_channels says 1"),
        (lambda x, cond: (x, cond | {"text": x[..., 0, 0]}), "text_width=10: set net.text_width=4"),
    ],
)
def test_inputs_that_do_not_fit_are_one_line(build, change, message: str) -> None:
    net: Backbone = build()
    x, cond = change(*inputs())
    with pytest.raises(ValueError, match=message):
        net(x, levels(1), cond)


def test_a_vector_that_nobody_gives_is_said_with_the_choice_without_it(build) -> None:
    x, cond = inputs()
    del cond["label"]
    with pytest.raises(ValueError, match=r"needs cond\['label'\].*text_mask; net/label=none is without"):
        build("net/label=classes")(x, levels(1), cond)


def test_pattern_repeats_to_the_depth(build) -> None:
    net = build("net.pattern=STP", "net.depth=5")
    kinds = [type(block.attention.layout).__name__ for block in net.blocks]
    assert kinds == ["Spatial", "Temporal", "Full", "Spatial", "Temporal"]
    assert [type(block).__name__ for block in net.blocks] == ["Serial", "Serial", "Parallel", "Serial", "Serial"]
