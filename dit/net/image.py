"""An image that cross-attention reads beside the text: its tokens, and the attention that reads both (Wan 2.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.attention import CrossAttention, Parts
from dit.net.context import Context
from dit.net.layers import LayerNorm
from dit.net.layout import attend


class ImageTokens(nn.Module):
    """Features of an image encoder (CLIP) to tokens: LayerNorm, Linear, GELU, Linear, LayerNorm (Wan's `img_emb`).

    features: width of what comes in. eps: of the norms.
    positions: null for one image a sample; or the tokens of two images together (first and last frame), each of which
      then has a learned position. The images of a batch come one after another, the two of a sample side by side.
    """

    def __init__(self, width: int, *, features: int, positions: int | None, eps: float) -> None:
        super().__init__()
        self.features = features
        self.table = None if positions is None else nn.Parameter(torch.zeros(1, positions, features))
        self.norm_in = LayerNorm(features, eps=eps, affine=True)
        self.hidden = nn.Linear(features, features)
        self.out = nn.Linear(features, width)
        self.norm_out = LayerNorm(width, eps=eps, affine=True)

    def init_own(self, std: float) -> None:
        """Positions start at zero; called by the network's init part."""
        if self.table is not None:
            nn.init.zeros_(self.table)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, M, features) -> (B, M, width); with positions, (2 B, M, features) -> (B, 2 M, width)."""
        if self.table is not None:
            image = image.reshape(-1, 2 * image.shape[1], image.shape[2]) + self.table
        return self.norm_out(self.out(functional.gelu(self.hidden(self.norm_in(image)))))


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
        self.image_kv = nn.Linear(parts.width, 2 * parts.width, bias=kv_bias)
        self.norm_image = image_norm(parts.width)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, N, width) -> what it reads, (B, N, width)."""
        q = self.query(x)
        k, v, *image = context.cross_keys or self.keys(context)
        out = attend(self.kernel, q.to(v.dtype), k, v, context.cross_mask)
        if image:
            k, v = image
            out = out + attend(self.kernel, q.to(v.dtype), k, v, context.image_mask)
        return self.out(out.flatten(2))

    def keys(self, context: Context) -> tuple[Tensor, ...]:
        """Keys and values of the text, and those of the image if there is one, (B, M, heads, head_dim) each."""
        if context.image is None:
            return super().keys(context)
        k, v = self.image_kv(context.image).chunk(2, dim=-1)  # (B, M, width) each
        heads = (self.heads, self.head_dim)
        return *super().keys(context), self.norm_image(k).to(v.dtype).unflatten(-1, heads), v.unflatten(-1, heads)


class TwoQueryCrossAttention(CrossAttention):
    """Cross-attention that reads text and image by queries, keys and values of their own; both are added (Cosmos 2.5).

    image_norm: QK-norm of the image's queries and keys, of each head. The other arguments are `CrossAttention`'s.
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
        self.image_q = nn.Linear(parts.width, parts.width, bias=q_bias)
        self.image_kv = nn.Linear(parts.width, 2 * parts.width, bias=kv_bias)
        self.image_norm_q, self.image_norm_k = image_norm(parts.head_dim), image_norm(parts.head_dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, N, width) -> what it reads, (B, N, width)."""
        x, heads = self.norm(x), (self.heads, self.head_dim)
        k, v, *image = context.cross_keys or self.keys(context)
        out = attend(self.kernel, self.norm_q(self.q(x).unflatten(-1, heads)).to(v.dtype), k, v, context.cross_mask)
        if image:
            k, v = image
            q = self.image_norm_q(self.image_q(x).unflatten(-1, heads))
            out = out + attend(self.kernel, q.to(v.dtype), k, v, context.image_mask)
        return self.out(out.flatten(2))

    def keys(self, context: Context) -> tuple[Tensor, ...]:
        """Keys and values of the text, and those of the image if there is one, (B, M, heads, head_dim) each."""
        if context.image is None:
            return super().keys(context)
        k, v = self.image_kv(context.image).unflatten(-1, (2, self.heads, self.head_dim)).unbind(2)
        return *super().keys(context), self.image_norm_k(k).to(v.dtype), v
