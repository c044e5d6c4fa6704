"""From tokens back to patches."""

from collections.abc import Callable

from torch import Tensor, nn

from dit.net.context import Levels
from dit.net.layers import ZeroLinear, modulate
from dit.net.modulation import Modulation
from dit.net.sequence import TextLevel


class AdaLNFinal(nn.Module):
    """Norm, shift and scale by the level, a Linear that starts at zero (DiT, PixArt, Wan).

    norm: of the tokens; the blocks' may be another. bias: of the Linear. level: which level all tokens of a clip take
    where its frames have levels of their own (HunyuanVideo's image-to-video: the last frame's); null: each its own.
    """

    def __init__(
        self,
        width: int,
        features: int,
        modulation: Modulation,
        *,
        norm: Callable[[int], nn.Module],
        bias: bool,
        level: TextLevel | None,
    ) -> None:
        super().__init__()
        self.modulation = modulation.final_head()
        self.norm = norm(width)
        self.linear = ZeroLinear(width, features, bias=bias)
        self.level = level

    def forward(self, x: Tensor, levels: Levels) -> Tensor:
        """Tokens (B, N, width) and their level vectors -> (B, N, features)."""
        levels = levels if self.level is None else levels.one(self.level)
        shift, scale = levels.of(self.modulation)
        return self.linear(modulate(self.norm(x), shift, scale))
