"""An independent DiT (Peebles and Xie, arXiv 2212.09748), written plainly, for our network to be timed against.

Image latents with class labels, adaLN-zero, a modulation MLP in every block, qkv in one projection, torch's SDPA,
GELU-tanh, fixed 2D sin-cos positions, learned sigma: the operations of facebookresearch/DiT, in its order. Nothing of
`dit` is used here.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.twins.shape import Shape


def shift_and_scale(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D), shift and scale (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


def sincos_2d(dim: int, grid: int) -> Tensor:
    """(grid * grid, dim) float64, fixed positions: the first half encodes the column, the second the row."""
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    halves = []
    for place in (column, row):
        angle = place.reshape(-1, 1) * frequencies
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids of the time step, then an MLP."""

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.half = frequencies // 2
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) -> (B, D)."""
        rates = torch.exp(-math.log(10000) * torch.arange(self.half, device=t.device, dtype=t.dtype) / self.half)
        angle = t[:, None] * rates
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))


class Attention(nn.Module):
    """Self-attention with one projection for q, k and v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        out = functional.scaled_dot_product_attention(q, k, v)  # (B, heads, N, head_dim)
        return self.proj(out.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """adaLN-zero block, section 3.2 and figure 3 of the paper."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x (B, N, D), c (B, D) -> (B, N, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).chunk(6, dim=1)
        x = x + gate_a[:, None] * self.attn(shift_and_scale(self.norm1(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(shift_and_scale(self.norm2(x), shift_m, scale_m))


class DiT(nn.Module):
    """net(x (B, C, 1, H, W), t (B, 1) in [0, 1], cond["label"] (B,)) -> (B, out_channels, 1, H, W)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        dim, self.patch, self.out_channels = shape.width, shape.patch, shape.out_channels
        self.x_embed = nn.Conv2d(shape.in_channels, dim, kernel_size=self.patch, stride=self.patch)
        self.t_embed = TimeEmbedding(dim)
        self.y_embed = nn.Embedding(shape.num_classes + 1, dim)  # the last one is "no class"
        self.register_buffer("positions", sincos_2d(dim, shape.size // self.patch)[None].float())
        self.blocks = nn.ModuleList(Block(dim, shape.heads) for _ in range(shape.depth))
        self.final_norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.final_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.final_proj = nn.Linear(dim, self.patch * self.patch * self.out_channels)

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        grid = x.shape[3] // self.patch, x.shape[4] // self.patch
        x = self.x_embed(x[:, :, 0]).flatten(2).transpose(1, 2) + self.positions  # (B, N, D)
        c = self.t_embed(1000 * t[:, 0]) + self.y_embed(cond["label"])  # (B, D)
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.final_modulation(c).chunk(2, dim=1)
        x = self.final_proj(shift_and_scale(self.final_norm(x), shift, scale))  # (B, N, p*p*out)
        x = x.unflatten(1, grid).unflatten(3, (self.patch, self.patch, self.out_channels))
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3).unsqueeze(2)
