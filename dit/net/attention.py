"""Self-attention and cross-attention: projections, norms and rotation around a kernel."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from dit.net.context import Context
from dit.net.kernels.base import Kernel
from dit.net.layers import ZeroLinear
from dit.net.layout import Layout, attend
from dit.net.modulation import Modulation
from dit.net.position.rotary import Rotation
from dit.net.sequence import TextTokens


@dataclass(frozen=True)
class Parts:
    """What a block is built from: sizes, and constructors of its modules.

    Constructors: norm(dim), mlp(width), attention(parts, layout), qk_norm(heads, head_dim) and cross_attention(parts),
    which may return None. modulation: the backbone's own; a block asks it for a head. cross_width: of the tokens that
    cross-attention reads. stream_width: of the text tokens that pass through the blocks with the video; None: there are
    none.
    """

    width: int
    heads: int
    norm: Callable[[int], nn.Module]
    mlp: Callable[[int], nn.Module]
    attention: Callable[["Parts", Layout], nn.Module]
    qk_norm: Callable[[int, int], nn.Module]
    cross_attention: Callable[["Parts"], nn.Module | None]
    cross_width: int
    stream_width: int | None
    modulation: Modulation
    kernel: Kernel

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class PerHead(nn.Module):
    """QK-norm over the channels of each head (arXiv 2302.05442; HunyuanVideo and Cosmos: RMS, CogVideoX: LayerNorm).

    norm: the norm of one head.
    """

    def __init__(self, heads: int, head_dim: int, *, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = norm(head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, heads, head_dim) -> the same."""
        return self.norm(x)


class AcrossHeads(nn.Module):
    """QK-norm over the channels of all heads together (Wan, LTX-Video: RMS). norm: the norm of the full width."""

    def __init__(self, heads: int, head_dim: int, *, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm = norm(heads * head_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, heads, head_dim) -> the same."""
        return self.norm(x.flatten(2)).view_as(x)


class NoQKNorm(nn.Identity):
    """Queries and keys as they are."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()


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

    def heads_of(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, width) -> normed and rotated q and k, and v, each (B, N, heads, head_dim)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        # Norms may have computed in fp32 under autocast; the kernel wants one dtype.
        q, k = self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype)
        if rotation is not None:
            q, k = (rotation.rotate(each).to(v.dtype) for each in (q, k))
        return q, k, v


class SelfAttention(StreamHeads):
    """Attention among the tokens of the sequence. qkv_bias, out_bias: biases of the projections.

    Raises ValueError for a network whose text tokens in the sequence are of another width.
    """

    def __init__(self, parts: Parts, layout: Layout, *, qkv_bias: bool, out_bias: bool) -> None:
        if parts.stream_width not in (None, parts.width):
            raise ValueError(
                f"text tokens are {parts.stream_width} wide, those of the video {parts.width}: no block can hold both;"
                " choose blocks of two streams or another net/text"
            )
        super().__init__(parts.width, parts.heads, parts.head_dim, parts.qk_norm, qkv_bias)
        self.layout, self.kernel = layout, parts.kernel
        self.out = nn.Linear(parts.width, parts.width, bias=out_bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, N, width) -> (B, N, width)."""
        q, k, v = self.heads_of(x, context.rotation)  # (B, N, heads, head_dim) each
        return self.out(self.layout(self.kernel, q, k, v, context).flatten(2))


class CrossAttention(nn.Module):
    """Tokens of the sequence read the text. Its output projection starts at zero, as PixArt-alpha's.

    norm: of the tokens before the query projection (Wan), or null (PixArt-alpha).
    q_bias, kv_bias, out_bias: biases of the projections.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        norm: Callable[[int], nn.Module] | None,
        q_bias: bool,
        kv_bias: bool,
        out_bias: bool,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.kernel = parts.heads, parts.head_dim, parts.kernel
        self.norm = nn.Identity() if norm is None else norm(parts.width)
        self.q = nn.Linear(parts.width, parts.width, bias=q_bias)
        self.kv = nn.Linear(parts.cross_width, 2 * parts.width, bias=kv_bias)
        self.norm_q = parts.qk_norm(parts.heads, parts.head_dim)
        self.norm_k = parts.qk_norm(parts.heads, parts.head_dim)
        self.out = ZeroLinear(parts.width, parts.width, bias=out_bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, N, width) -> what it reads, (B, N, width)."""
        x = self.norm(x)
        q = self.norm_q(self.q(x).unflatten(-1, (self.heads, self.head_dim)))  # (B, N, heads, head_dim)
        return self.out(self.read(q, x, self.kept_keys(context.text), context).flatten(2))

    def kept_keys(self, text: TextTokens) -> tuple[Tensor, ...]:
        """`keys`, made once where they are kept for further passes (`text_reuse.py`)."""
        if text.kept is None:
            return self.keys(text)
        if self not in text.kept:
            text.kept[self] = self.keys(text)
        return text.kept[self]

    def keys(self, text: TextTokens) -> tuple[Tensor, ...]:
        """Keys and values of the text, (B, L, heads, head_dim) each: the same at every noise level."""
        k, v = self.kv(text.cross).unflatten(-1, (2, self.heads, self.head_dim)).unbind(2)
        return self.norm_k(k).to(v.dtype), v

    def read(self, q: Tensor, x: Tensor, keys: tuple[Tensor, ...], context: Context) -> Tensor:
        """What queries q (B, N, heads, head_dim) of the normed tokens x (B, N, width) read -> the shape of q."""
        k, v = keys[:2]
        return attend(self.kernel, q.to(v.dtype), k, v, context.cross_mask)


class ImageCrossAttention(CrossAttention):
    """Cross-attention whose queries read the text and, with keys and values of its own, the image; both are added.

    image_norm: QK-norm of the image's keys, over all heads together. The other arguments are `CrossAttention`'s.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        norm: Callable[[int], nn.Module] | None,
        image_norm: Callable[[int], nn.Module],
        q_bias: bool,
        kv_bias: bool,
        out_bias: bool,
    ) -> None:
        super().__init__(parts, norm=norm, q_bias=q_bias, kv_bias=kv_bias, out_bias=out_bias)
        self.add_image(parts, image_norm, q_bias, kv_bias)

    def add_image(self, parts: Parts, image_norm: Callable[[int], nn.Module], q_bias: bool, kv_bias: bool) -> None:
        """Makes the modules by which the image is read."""
        self.image_kv = nn.Linear(parts.width, 2 * parts.width, bias=kv_bias)
        self.norm_image = image_norm(parts.width)

    def keys(self, text: TextTokens) -> tuple[Tensor, ...]:
        """Keys and values of the text, and those of the image if there is one, (B, M, heads, head_dim) each."""
        return super().keys(text) if text.image is None else (*super().keys(text), *self.image_keys(text.image))

    def image_keys(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the image (B, M, width) -> their keys and values, (B, M, heads, head_dim) each."""
        k, v = self.image_kv(image).chunk(2, dim=-1)  # (B, M, width) each
        heads = (self.heads, self.head_dim)
        return self.norm_image(k).to(v.dtype).unflatten(-1, heads), v.unflatten(-1, heads)

    def image_query(self, q: Tensor, x: Tensor) -> Tensor:
        """Queries of the normed tokens x for the text -> those for the image: the same."""
        return q

    def read(self, q: Tensor, x: Tensor, keys: tuple[Tensor, ...], context: Context) -> Tensor:
        text = super().read(q, x, keys, context)
        if len(keys) == 2:  # there is no image
            return text
        k, v = keys[2:]
        return text + attend(self.kernel, self.image_query(q, x).to(v.dtype), k, v, context.image_mask)


class TwoQueryCrossAttention(ImageCrossAttention):
    """Cross-attention that reads text and image by queries, keys and values of their own; both are added (Cosmos 2.5).

    image_norm: QK-norm of the image's queries and keys, of each head. The other arguments are `CrossAttention`'s.
    """

    def add_image(self, parts: Parts, image_norm: Callable[[int], nn.Module], q_bias: bool, kv_bias: bool) -> None:
        self.image_q = nn.Linear(parts.width, parts.width, bias=q_bias)
        self.image_kv = nn.Linear(parts.width, 2 * parts.width, bias=kv_bias)
        self.image_norm_q, self.image_norm_k = image_norm(parts.head_dim), image_norm(parts.head_dim)

    def image_keys(self, image: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.image_kv(image).unflatten(-1, (2, self.heads, self.head_dim)).unbind(2)
        return self.image_norm_k(k).to(v.dtype), v

    def image_query(self, q: Tensor, x: Tensor) -> Tensor:
        return self.image_norm_q(self.image_q(x).unflatten(-1, (self.heads, self.head_dim)))
