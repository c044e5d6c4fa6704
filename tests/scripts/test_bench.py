"""The benchmark's arithmetic on tiny networks, its mistakes, its memory estimate, and its twin, which is also DiT."""

import functools
import importlib
import mmap
import re
from collections import Counter

import hydra
import pytest
import torch

from scripts import bench, mixed
from scripts.memory import Memory, estimate_memory, measured_peak, reset_peak, resident
from scripts.twins.dit_reference import DiT, sincos_2d
from scripts.twins.shape import Shape

TINY = ["batch=2", "height=8", "width=8", "repeats=1", "warmup=0", "net.depth=2", "net.width=32", "net.heads=2"]
CPU = torch.device("cpu")

# Our names -> the twin's; in the order in which they are replaced.
NAMES = {
    "embed.": "x_embed.",
    "level.hidden.": "t_embed.mlp.0.",
    "level.out.": "t_embed.mlp.2.",
    "vectors.label.table.": "y_embed.",
    "final.modulation.1.linear.": "final_modulation.1.",
    "final.linear.": "final_proj.",
    ".modulation.linear.": ".modulation.1.",
    ".attention.qkv.": ".attn.qkv.",
    ".attention.out.": ".attn.proj.",
    ".mlp.up.": ".mlp.0.",
    ".mlp.down.": ".mlp.2.",
}


def compose(*overrides: str):
    return bench.compose(bench.Settings(), list(overrides))


def twin_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        if name.startswith(ours) or ours.startswith(".") and ours in name:
            return name.replace(ours, theirs, 1)
    raise AssertionError(name)


def test_our_dit_equals_the_independent_one() -> None:
    """Same weights, same output, in float64; the twin knows nothing of `dit`."""
    torch.manual_seed(0)
    config = compose("net.depth=2", "net.width=32", "net.heads=2")
    ours = hydra.utils.instantiate(config).double()
    twin = DiT(
        Shape(size=8, patch=2, in_channels=4, out_channels=8, width=32, depth=2, heads=2, num_classes=1000)
    ).double()
    twin.positions.copy_(sincos_2d(32, 4))  # it keeps them in float32
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {twin_name(name): value for name, value in ours.state_dict().items()}
    state["x_embed.weight"] = state["x_embed.weight"].unflatten(1, (4, 2, 2))
    result = twin.load_state_dict(state, strict=False)
    assert result.missing_keys == ["positions"]
    assert not result.unexpected_keys
    x, t, label = torch.randn(3, 4, 1, 8, 8).double(), torch.rand(3, 1).double(), torch.tensor([5, 1000, 0])
    expected = twin(x, t, {"label": label})
    found = ours(x, t, {"label": label})
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        twin.blocks[1].attn.qkv.weight[0, 0] += 0.5
    assert (twin(x, t, {"label": label}) - found).abs().max() > 1e-4


def test_prints_both_networks_with_consistent_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(TINY)
    out = capsys.readouterr().out
    rows = {cells[1].strip(): cells for line in out.splitlines() if line.startswith("|") and (cells := line.split("|"))}
    assert {"ours: dit_s_2", "twin: reference"} <= set(rows)
    total, attention = (float(n) for n in re.search(r"(\S+) GFLOP a training step \((\S+) of", out).groups())
    tokens, dim = 2 * 16, 32
    assert f"{tokens} tokens" in out
    assert re.search(r"^attention kernels .* cpu, float32, head_dim=16, no mask: SDPA", out, re.MULTILINE)
    assert attention == pytest.approx(3 * 2 * 4 * 16 * 16 * dim * 2 / 1e9, rel=0.01)
    for cells in (rows["ours: dit_s_2"], rows["twin: reference"]):
        _, _, _, backward, step, optimizer, rate, gflops, share, linear = [
            c.strip().partition(" ")[0] for c in cells[:-1]
        ]
        assert float(backward) <= float(step)
        assert float(optimizer) == pytest.approx(1 - float(backward) / float(step), abs=0.05)
        assert float(rate) == pytest.approx(tokens / float(step) * 1e3, rel=0.1)
        assert float(share) >= float(linear) > 0
        assert float(gflops) == pytest.approx(total / float(backward) * 1e3, rel=0.05, abs=0.1)


def test_optimizers_beside_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main([*TINY, "twins=false", "optim=adamw,muon"])
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ours")]
    assert rows == ["ours: dit_s_2, adamw", "ours: dit_s_2, muon"]


def test_shares_are_of_the_rate_of_the_same_turn(capsys: pytest.CaptureFixture[str]) -> None:
    subject = bench.Subject("x", torch.nn.Identity(), None, [0.1] * 3, [1.0, 2.0, 4.0], [1.5, 2.5, 4.5])  # type: ignore[arg-type]
    bench.report(
        [subject], [80e9, 40e9, 20e9], tokens=100, forward_flops=10**9, flops={"mm": 30 * 10**9, "bmm": 10**10}
    )
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| x |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2].startswith("2000.0 [1500.0, 3000.0]")
    assert cells[4] == "0.200 [0.156, 0.267]"
    assert cells[7] == "0.500 [0.500, 0.500]"
    assert cells[8] == "0.375 [0.375, 0.375]"


def test_mfu_is_the_share_of_the_data_sheet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert bench.stated_rate(bench.Settings(device="cpu", precision="bf16")) is None
    assert bench.stated_rate(bench.Settings(device="cuda", precision="fp32")) is None
    stated = bench.stated_rate(bench.Settings(device="cuda", precision="bf16"))
    subject = bench.Subject("x", torch.nn.Identity(), None, [0.1], [1.0], [1.5])  # type: ignore[arg-type]
    bench.report([subject], [500e12], tokens=100, forward_flops=1, flops={"mm": int(98.94e12)}, stated=stated)
    assert "MFU, the share of the data sheet's 989 TFLOP/s: x 0.100 [0.100, 0.100]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "settings", "why"),
    [
        ([], {"frames": 4}, "one frame"),
        ([], {"height": 16}, "square images"),
        (["net/label=none"], {}, "class labels"),
        (["net.patch=[1,2,4]"], {}, "square patches"),
    ],
)
def test_no_twin_where_shapes_differ(overrides: list[str], settings: dict[str, int], why: str) -> None:
    assert why in bench.shape_of(compose(*overrides), bench.Settings(**settings))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("bathc=8", "unknown setting 'bathc'"),
        ("batch", "is not name=value"),
        ("batch=0", "at least 1"),
        ("compile=yes", "true or false"),
        ("precision=fp8", "none of fp32, bf16"),
        ("net=dit_z", "there are"),
    ],
)
def test_mistakes_are_named(argument: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bench.parse([argument])


def test_overrides_reach_the_network_only() -> None:
    settings, overrides = bench.parse(["net=dit_b_2", "batch=3", "net.depth=2", "net/position=rope3d", "warmup=0"])
    assert (settings.net, settings.batch, settings.warmup) == ("dit_b_2", 3, 0)
    assert overrides == ["net.depth=2", "net/position=rope3d"]


def test_a_text_network_with_frames_gets_all_it_asks_for() -> None:
    settings = bench.Settings(net="s", batch=3, frames=2, height=4, width=4, text_tokens=8, per_frame=True)
    config = bench.compose(settings, ["net.depth=1", "net.width=32", "net.heads=2", "net.text_width=16"])
    x, t, cond = bench.make_inputs(config, settings, CPU)
    assert t.shape == (3, 2)
    assert cond["text_mask"].sum(1).tolist() == [8, 6, 8]
    assert bench.build(config)(x, t, cond).shape == (3, 16, 2, 4, 4)


@pytest.mark.parametrize(
    "net", ["hunyuan_video_tiny", "hunyuan_video15_tiny", "kandinsky5_tiny", "mochi_tiny", "wan22_i2v_tiny"]
)
def test_published_networks_get_all_they_ask_for(net: str) -> None:
    settings = bench.Settings(net=net, batch=2, frames=3, height=8, width=8, text_tokens=8)
    config = bench.compose(settings, [])
    inputs = bench.make_inputs(config, settings, CPU)
    assert bench.build(config)(*inputs).shape == (2, config.out_channels, 3, 8, 8)


def test_memory_estimate_of_a_network_that_can_be_counted_by_hand() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(64, 256, bias=False)
            self.second = torch.nn.Linear(256, 8, bias=False)
            self.second.weight.requires_grad_(False)

        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.second(self.first(x).sin())

    x = torch.randn(1000, 64)
    memory = estimate_memory(Two, (x, torch.rand(1, 1), {}), autocast=False)
    # Kept: the input, the argument of sin, and the output, for the square of the loss. Frozen weights keep no input.
    assert memory == Memory(4 * (64 + 8) * 256, 4 * 64 * 256, 8 * 64 * 256, 4 * 1000 * (64 + 256 + 8))
    assert memory.peak == memory.parameters + memory.optimizer + memory.activations


def test_checkpointing_lowers_the_estimate() -> None:
    settings = bench.Settings(batch=2, height=16, width=16)
    peaks = []
    for choice in ("none", "blocks"):
        config = compose("net.depth=4", "net.width=64", "net.heads=2", f"net/checkpointing={choice}")
        inputs = bench.make_inputs(config, settings, CPU)
        peaks.append(estimate_memory(lambda config=config: bench.build(config, "sdpa"), inputs, False).activations)
    assert peaks[1] < 0.5 * peaks[0]


def test_measured_peak_sees_what_was_held_and_let_go() -> None:
    before = resident(CPU)
    if before is None:
        pytest.skip("this system does not tell a process its memory")
    reset_peak(CPU)
    # Pages straight from the system: a tensor may be given memory that malloc still holds from earlier tests.
    with mmap.mmap(-1, 64 * 2**20) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
    assert 60 * 2**20 < measured_peak(CPU) - before < 80 * 2**20
    reset_peak(CPU)
    assert measured_peak(CPU) - before < 20 * 2**20


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_published_model_beside_diffusers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, compiled: str
) -> None:
    """The whole command, on a miniature: equal weights give equal outputs, and the ratio is printed."""
    pytest.importorskip("diffusers")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # which takes no time
    sizes = ["frames=2", "height=8", "width=8", "text_tokens=4", "repeats=1", "warmup=0", "device=cpu"]
    bench.main(["twin=wan", "net=wan21_tiny", f"compile={compiled}", *sizes])
    printed = capsys.readouterr().out
    apart = re.search(r"largest difference of the outputs: (\S+) relative", printed)
    assert apart is not None and float(apart.group(1)) < 1e-4
    assert "diffusers: WanTransformer3DModel" in printed and "| ours / diffusers, turn by turn |" in printed


def test_what_is_measured_by_name_is_there() -> None:
    pytest.importorskip("diffusers")
    published = importlib.import_module("scripts.twins.published")
    for name, example in published.EXAMPLES.items():
        settings, overrides = bench.parse([f"twin={name}"])
        assert settings.net == example.preset and settings.batch == example.batch
        assert bench.compose(settings, overrides).depth < 5
    with pytest.raises(ValueError, match="twin=sora is not a published model that is known; there are dit, latte"):
        bench.parse(["twin=sora"])


def test_one_twin_that_fails_does_not_cost_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    from scripts.twins import compare

    def one(arguments: list[str]) -> compare.Ratios:
        if "twin=wan" in arguments:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compare.Ratios(arguments[0], "0.9", "0.8")

    monkeypatch.setattr(compare, "compare", one)
    with pytest.raises(SystemExit, match="failed: wan"):
        bench.main(["twin=all", "frames=8"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| twin=")]
    assert len(rows) == len(compare.published.EXAMPLES) - 1 and "| twin=mochi | 0.9 | 0.8 |" in rows


def test_padding_buckets_and_packing_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """The same clips within the same budget; of a pack's tokens at least 95 % are real."""
    sizes = ["batch=2", "frames=4", "height=16", "width=16", "net.depth=1", "net.width=16", "net.heads=2"]
    bench.main(["net=s", *sizes, "shapes=true", "repeats=2", "warmup=0"])
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    real = {row[0]: [float(share.rstrip("%")) for share in row[3:5]] for row in rows}
    assert list(real) == ["padding", "buckets", "packed"]
    assert real["padding"][0] < 50 and real["buckets"][0] == real["packed"][0] == 100
    assert real["packed"][1] > max(95, real["buckets"][1])
    peaks = re.findall(r"fullest batch, estimated, (\w+): .*; peak about (\d+) MiB", out)
    assert [name for name, _ in peaks] == ["padding", "buckets", "packed"] and all(int(peak) > 0 for _, peak in peaks)
    for row in rows:
        milliseconds, rate = (float(cell.partition(" ")[0]) for cell in row[5:7])
        assert milliseconds > 0 and rate > 0


def test_ways_share_out_the_same_clips() -> None:
    settings = bench.Settings(batch=2, frames=4, height=16, width=16)
    sizes = mixed.Latents([1, 2, 2])
    padding, *others = mixed.ways(settings, sizes)[0]
    budget, whole = mixed.ways(settings, sizes)[2], Counter(shape for batch in padding.batches for shape in batch)
    assert padding.padded is not None and settings.batch * sizes.tokens(*padding.padded) == budget
    for way in others:
        assert Counter(shape for batch in way.batches for shape in batch) == whole
        assert max(sum(sizes.tokens(*shape) for shape in batch) for batch in way.batches) <= budget
        assert way.name == "packed" or all(len(set(batch)) == 1 for batch in way.batches)
