"""Blocks that write text as well as video, which meet in one attention: two streams with weights of their own, alike
(MM-DiT, arXiv 2403.03206) or not (Mochi), or one sequence whose text has a modulation of its own (CogVideoX)."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from dit.net.attention import Parts, StreamHeads
from dit.net.blocks import Block
from dit.net.context import Context
from dit.net.layers import add_gated, modulate
from dit.net.layout import Layout


class JointAttention(nn.Module):
    """One attention among the tokens of both streams, which come in and leave by projections of their own.

    writes_text: whether the text stream goes on behind it; in the last block of some models it ends.
    qkv_bias, out_bias, text_qkv_bias, text_out_bias: biases of the projections of either stream.
    """

    def __init__(
        self,
        parts: Parts,
        layout: Layout,
        writes_text: bool,
        *,
        qkv_bias: bool,
        out_bias: bool,
        text_qkv_bias: bool,
        text_out_bias: bool,
    ) -> None:
        super().__init__()
        self.layout, self.kernel = layout, parts.kernel
        width, text_width = parts.heads * parts.head_dim, text_stream_width(parts)
        self.video = StreamHeads(parts.width, parts.heads, parts.head_dim, parts.qk_norm, qkv_bias)
        self.text = StreamHeads(text_width, parts.heads, parts.head_dim, parts.qk_norm, text_qkv_bias)
        self.out = nn.Linear(width, parts.width, bias=out_bias)
        self.text_out = nn.Linear(width, text_width, bias=text_out_bias) if writes_text else None

    def forward(self, video: Tensor, text: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """video (B, N, width), text (B, L, stream width) -> the same; None for a text stream that ends here."""
        streams = zip(self.video.heads_of(video, context.video_rotation), self.text.heads_of(text, None), strict=True)
        q, k, v = (context.sequence.join(*pair) for pair in streams)  # (B, N + L, heads, head_dim) each
        out = self.layout(self.kernel, q, k, v, context).flatten(2)  # (B, N + L, heads * head_dim)
        read, text_read = context.sequence.split(out, context.num_text)
        return self.out(read), None if self.text_out is None else self.text_out(text_read)


class Dual(Block):
    """Attention, then the MLP, for both streams at once; only the attention is common to them (HunyuanVideo, MM-DiT).

    layout: which tokens attend to one another. attention: finished with (parts, layout, writes_text).
    """

    def __init__(
        self,
        parts: Parts,
        occurrence: int,
        *,
        layout: Layout,
        attention: Callable[[Parts, Layout, bool], nn.Module],
    ) -> None:
        super().__init__()
        text_width = text_stream_width(parts)
        self.attention = attention(parts, layout.at(occurrence), True)
        self.modulation = parts.modulation.block_head(6)
        self.norm1, self.norm2 = parts.norm(parts.width), parts.norm(parts.width)
        self.mlp = parts.mlp(parts.width)
        self.text_modulation = parts.modulation.text_head(6, text_width)
        self.text_norm1, self.text_norm2 = parts.norm(text_width), parts.norm(text_width)
        self.text_mlp = parts.mlp(text_width)

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        assert text is not None  # the constructor has seen to it
        shift1, scale1, gate1, shift2, scale2, gate2 = context.video_levels.of(self.modulation)  # (B, 1 or F, D) each
        text_vectors = context.text_levels.of(self.text_modulation)  # (B, 1, text D) each
        text_shift1, text_scale1, text_gate1, text_shift2, text_scale2, text_gate2 = text_vectors

        video = context.placed(video)
        video_in = modulate(self.norm1(video), shift1, scale1)
        text_in = modulate(self.text_norm1(text), text_shift1, text_scale1)
        video_read, text_read = self.attention(video_in, text_in, context)
        video = add_gated(video, gate1, video_read)
        text = add_gated(text, text_gate1, text_read)

        video = add_gated(video, gate2, self.mlp(modulate(self.norm2(video), shift2, scale2)))
        text = add_gated(text, text_gate2, self.text_mlp(modulate(self.text_norm2(text), text_shift2, text_scale2)))
        return video, text


class Sandwich(Block):
    """Attention of both streams, then an MLP for each; every branch is normed and scaled in front, normed and gated by
    tanh behind. There are no shifts. The streams may differ in width (Mochi, Genmo 2024).

    layout: which tokens attend to one another. attention: finished with (parts, layout, writes_text). text_mlp: of the
    text stream, or null: the stream is read and ends here, as in Mochi's last block.
    """

    def __init__(
        self,
        parts: Parts,
        occurrence: int,
        *,
        layout: Layout,
        attention: Callable[[Parts, Layout, bool], nn.Module],
        text_mlp: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        width, text_width = parts.width, text_stream_width(parts)
        writes_text = text_mlp is not None
        self.attention = attention(parts, layout.at(occurrence), writes_text)
        self.modulation = parts.modulation.block_head(4)
        self.norms = nn.ModuleList(parts.norm(width) for _ in range(4))
        self.mlp = parts.mlp(width)
        self.text_modulation = parts.modulation.text_head(4 if writes_text else 1, text_width)
        self.text_norms = nn.ModuleList(parts.norm(text_width) for _ in range(4 if writes_text else 1))
        self.text_mlp = None if text_mlp is None else text_mlp(text_width)

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        assert text is not None  # the constructor has seen to it
        scale1, *vectors = context.video_levels.of(self.modulation)  # (B, 1 or F, D) each
        text_scale1, *text_vectors = context.text_levels.of(self.text_modulation)  # (B, 1, text D) each
        video = context.placed(video)
        video_in, text_in = scaled(self.norms[0](video), scale1), scaled(self.text_norms[0](text), text_scale1)
        video_read, text_read = self.attention(video_in, text_in, context)
        video = finish(video, video_read, vectors, self.norms, self.mlp)
        if self.text_mlp is not None:
            text = finish(text, text_read, text_vectors, self.text_norms, self.text_mlp)
        return video, text


def finish(x: Tensor, read: Tensor, vectors: list[Tensor], norms: nn.ModuleList, mlp: nn.Module) -> Tensor:
    """Adds what attention has read, then the MLP. x, read (B, N, D), vectors gate, scale and gate, (B, G, D) each."""
    gate1, scale2, gate2 = vectors
    x = add_gated(x, gate1.tanh(), norms[1](read))
    return add_gated(x, gate2.tanh(), norms[3](mlp(scaled(norms[2](x), scale2))))


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale), for x (B, N, D) and scale (B, G, D), with runs as in `modulate`."""
    return (x.unflatten(1, (scale.shape[1], -1)) * (1 + scale.unsqueeze(2))).flatten(1, 2)


class Joint(Block):
    """Attention, then the MLP, over text and video; shift, scale and gate of each are its own ("expert
    adaptive LayerNorm", CogVideoX, arXiv 2408.06072, section 2.2). layout: which tokens attend to one another.

    Raises ValueError when the network has no text tokens in its sequence.
    """

    def __init__(self, parts: Parts, occurrence: int, *, layout: Layout) -> None:
        super().__init__()
        self.modulation = parts.modulation.block_head(6)
        self.text_modulation = parts.modulation.block_head(6)
        self.norm1 = parts.norm(parts.width)
        self.attention = parts.attention(parts, layout.at(occurrence))
        self.norm2 = parts.norm(parts.width)
        self.mlp = parts.mlp(parts.width)

    def forward(self, video: Tensor, text: Tensor | None, context: Context) -> tuple[Tensor, Tensor | None]:
        if text is None:
            raise ValueError("blocks J need text tokens in the sequence: choose net/text=joint, or net.pattern=F")
        vectors = context.video_levels.of(self.modulation)  # 6 x (B, G, D)
        text_vectors = context.text_levels.of(self.text_modulation)  # 6 x (B, 1, D)
        attend = partial(self.attention, context=context)
        video, text = branch(attend, self.norm1, context.placed(video), text, vectors[:3], text_vectors[:3], context)
        return branch(self.mlp, self.norm2, video, text, vectors[3:], text_vectors[3:], context)


def branch(
    layer: Callable[[Tensor], Tensor],
    norm: nn.Module,
    video: Tensor,
    text: Tensor,
    vectors: tuple[Tensor, ...],
    text_vectors: tuple[Tensor, ...],
    context: Context,
) -> tuple[Tensor, Tensor]:
    """x + gate * layer(norm(x) * (1 + scale) + shift) for video (B, N, D) and text (B, L, D), by one call of the layer.

    vectors, text_vectors: shift, scale and gate of each.
    """
    shift, scale, gate = vectors
    text_shift, text_scale, text_gate = text_vectors
    x = context.sequence.join(modulate(norm(video), shift, scale), modulate(norm(text), text_shift, text_scale))
    change, text_change = context.sequence.split(layer(x), context.num_text)
    assert text_change is not None  # there are text tokens
    return add_gated(video, gate, change), add_gated(text, text_gate, text_change)


def text_stream_width(parts: Parts) -> int:
    """Width of the text stream. Raises ValueError for a network that has none."""
    if parts.stream_width is None:
        raise ValueError("a dual-stream block needs a text stream; choose a net/text that joins the sequence, or no D")
    return parts.stream_width
