"""Two streams, video and text, each with its own weights, that meet in one attention (MM-DiT, arXiv 2403.03206)."""

from collections.abc import Callable

from torch import Tensor, nn

from dit.net.attention import Parts
from dit.net.blocks import Block
from dit.net.context import Context
from dit.net.layers import add_gated, modulate
from dit.net.layout import Layout


class StreamHeads(nn.Module):
    """Tokens of one stream to the queries, keys and values of an attention.

    width: of the tokens. heads, head_dim: of the attention, whose width need not be the stream's. qk_norm
    (heads, head_dim): of queries and keys. bias: of the projection.
    """

    def __init__(
        self, width: int, heads: int, head_dim: int, qk_norm: Callable[[int, int], nn.Module], bias: bool
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=bias)
        self.norm_q, self.norm_k = qk_norm(heads, head_dim), qk_norm(heads, head_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, width) -> normed q and k, and v, each (B, N, heads, head_dim)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        # Norms may have computed in fp32 under autocast; the kernel wants one dtype.
        return self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype), v


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
        q, k, v = self.video(video)  # (B, N, heads, head_dim) each
        if context.video_rotation is not None:
            q, k = (context.video_rotation.rotate(each).to(v.dtype) for each in (q, k))
        streams = zip((q, k, v), self.text(text), strict=True)
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


def text_stream_width(parts: Parts) -> int:
    """Width of the text stream. Raises ValueError for a network that has none."""
    if parts.stream_width is None:
        raise ValueError("a dual-stream block needs a text stream; choose a net/text that joins the sequence, or no D")
    return parts.stream_width
