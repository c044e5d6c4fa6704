"""Self-attention and cross-attention: projections, norms and rotation around the kernel's door."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from dit.net.context import Context
from dit.net.kernels.door import Kernel
from dit.net.layers import ZeroLinear
from dit.net.layout import Layout, attend
from dit.net.modulation import Modulation


@dataclass(frozen=True)
class Parts:
    """What the backbone tells each block: sizes, and the parts that the block finishes.

    norm(dim), mlp(width), attention(parts, layout), qk_norm(heads, head_dim) and cross_attention(parts) make modules
    (the last may make None); `modulation` is the backbone's own, of which a block takes a head. cross_width: of the
    tokens that cross-attention reads. stream_width: of the text tokens that pass through the blocks with the video;
    None: there are none.
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


class SelfAttention(nn.Module):
    """Attention among the tokens of the sequence. qkv_bias, out_bias: biases of the projections.

    Raises ValueError for a network whose text tokens in the sequence are of another width.
    """

    def __init__(self, parts: Parts, layout: Layout, *, qkv_bias: bool, out_bias: bool) -> None:
        super().__init__()
        if parts.stream_width not in (None, parts.width):
            raise ValueError(
                f"text tokens are {parts.stream_width} wide, those of the video {parts.width}: no block can hold both;"
                " choose blocks of two streams or another net/text"
            )
        self.heads, self.head_dim = parts.heads, parts.head_dim
        self.layout, self.kernel = layout, parts.kernel
        self.qkv = nn.Linear(parts.width, 3 * parts.width, bias=qkv_bias)
        self.norm_q = parts.qk_norm(parts.heads, parts.head_dim)
        self.norm_k = parts.qk_norm(parts.heads, parts.head_dim)
        self.out = nn.Linear(parts.width, parts.width, bias=out_bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, N, width) -> (B, N, width)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))  # (B, N, 3, heads, head_dim)
        q, k, v = qkv.unbind(2)  # (B, N, heads, head_dim) each
        q, k = self.norm_q(q), self.norm_k(k)
        if context.rotation is not None:
            q, k = context.rotation.rotate(q), context.rotation.rotate(k)
        # Norms and rotation may have computed in fp32 under autocast; the kernel wants one dtype.
        out = self.layout(self.kernel, q.to(v.dtype), k.to(v.dtype), v, context)  # (B, N, heads, head_dim)
        return self.out(out.flatten(2))


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
        k, v = context.cross_keys or self.keys(context)
        return self.out(attend(self.kernel, self.query(x).to(v.dtype), k, v, context.cross_mask).flatten(2))

    def query(self, x: Tensor) -> Tensor:
        """x (B, N, width) -> (B, N, heads, head_dim)."""
        return self.norm_q(self.q(self.norm(x)).unflatten(-1, (self.heads, self.head_dim)))

    def keys(self, context: Context) -> tuple[Tensor, ...]:
        """Keys and values of the text, (B, L, heads, head_dim) each: the same at every noise level."""
        k, v = self.kv(context.text).unflatten(-1, (2, self.heads, self.head_dim)).unbind(2)
        return self.norm_k(k).to(v.dtype), v
