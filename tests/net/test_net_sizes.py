"""Parameter counts of the presets, on the meta device."""

import pytest
import torch

# width, depth, and the millions of arXiv 2212.09748, table 1 (and its code's log, for XL/2, to the last weight).
DIT = {
    "dit_s_2": (384, 12, 33),
    "dit_b_2": (768, 12, 130),
    "dit_l_2": (1024, 24, 458),
    "dit_xl_2": (1152, 28, 675.129632),
}


def dit_count(d: int, depth: int) -> int:
    """Weights of DiT from the paper's description: patch 2, 4 channels in and 8 out, 1000 classes and "none"."""
    embed = 2 * 2 * 4 * d + d
    level = (256 * d + d) + (d * d + d)
    label = 1001 * d
    attention = (d * 3 * d + 3 * d) + (d * d + d)
    mlp = (d * 4 * d + 4 * d) + (4 * d * d + d)
    modulation = d * 6 * d + 6 * d
    final = (d * 2 * d + 2 * d) + (d * 2 * 2 * 8 + 2 * 2 * 8)
    return embed + level + label + depth * (attention + mlp + modulation) + final


@pytest.mark.parametrize("preset", DIT)
def test_dit_counts_are_the_published_ones(build, preset: str) -> None:
    """DiT's own count at 256x256 pixels includes its frozen table of positions, which we compute and do not store."""
    width, depth, millions = DIT[preset]
    with torch.device("meta"):
        net = build(preset=preset, tiny=False, dtype=torch.float32)
    ours = sum(p.numel() for p in net.parameters())
    positions = 256 * width  # (256 / 8 / 2)^2 tokens
    assert ours == dit_count(width, depth)
    if isinstance(millions, float):
        assert ours + positions == round(millions * 1e6)
    assert (ours + positions) / 1e6 == pytest.approx(millions, abs=0.6)


def test_a_part_changes_the_count_by_its_own_weights(build) -> None:
    """The counts above are of these parts, and not of whatever happens to add up."""
    with torch.device("meta"):
        counts = {
            part: sum(p.numel() for p in build(f"net/{part}", preset="dit_s_2", tiny=False).parameters())
            for part in ("qk_norm=none", "qk_norm=rms", "qk_norm=layernorm", "modulation=adaln_single", "label=none")
        }
    base, d, depth = dit_count(384, 12), 384, 12
    assert counts["qk_norm=none"] == base
    assert counts["qk_norm=rms"] == base + depth * 2 * 64
    assert counts["qk_norm=layernorm"] == base + depth * 4 * 64
    assert counts["label=none"] == base - 1001 * d
    projection = d * 6 * d + 6 * d
    final = 2 * d - (d * 2 * d + 2 * d)
    assert counts["modulation=adaln_single"] == base - depth * projection + projection + depth * 6 * d + final


@pytest.mark.parametrize("preset, millions", [("s", 31), ("b", 121), ("l", 413), ("xl", 603), ("demo", 3.06)])
def test_text_to_video_sizes(build, preset: str, millions: float) -> None:
    with torch.device("meta"):
        net = build(preset=preset, tiny=False, dtype=torch.float32)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.1)
