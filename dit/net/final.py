"""From tokens back to patches."""

from collections.abc import Callable

from torch import Tensor, nn

from dit.net.context import Levels
from dit.net.layers import ZeroLinear, modulate
from dit.net.modulation import Modulation
from dit.net.sequence import TextLevel


class AdaLNFinal(nn.Module):
    """Norm, shift and scale by the level, a Linear that starts at zero (DiT, PixArt, Wan).

    norm: of the tokens; the blocks' may be another. bias: of the Linear.
    """

    def __init__(
        self, width: int, features: int, modulation: Modulation, *, norm: Callable[[int], nn.Module], bias: bool
    ) -> None:
        super().__init__()
        self.modulation = modulation.final_head()
        self.norm = norm(width)
        self.linear = ZeroLinear(width, features, bias=bias)

    def forward(self, x: Tensor, levels: Levels) -> Tensor:
        """Tokens (B, N, width) and their level vectors -> (B, N, features)."""
        shift, scale = levels.of(self.modulation)
        return self.linear(modulate(self.norm(x), shift, scale))


class OneLevelFinal(AdaLNFinal):
    """As `AdaLNFinal`, but where frames have levels of their own all tokens take the same (HunyuanVideo's
    image-to-video). level: which one.
    """

    def __init__(
        self,
        width: int,
        features: int,
        modulation: Modulation,
        *,
        norm: Callable[[int], nn.Module],
        bias: bool,
        level: TextLevel,
    ) -> None:
        super().__init__(width, features, modulation, norm=norm, bias=bias)
        self.level = level

    def forward(self, x: Tensor, levels: Levels) -> Tensor:
        """Tokens (B, N, width) and their level vectors -> (B, N, features)."""
        return super().forward(x, levels.one(self.level))
