"""How text enters the network: not at all, through cross-attention, or as tokens of the sequence."""

from abc import abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from dit.net.attention import NoCrossAttention, Parts
from dit.net.context import Sequence, TextFirst, TextTokens


class Text(nn.Module):
    """Base of the ways. sequence: the order of the joint sequence, where there is one."""

    sequence: Sequence = TextFirst()

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.text_width = text_width

    @abstractmethod
    def forward(self, cond: Mapping[str, Tensor]) -> TextTokens:
        """`text` (B, L, text_width) and `text_mask` (B, L; absent: all real) of cond -> tokens."""

    def features(self, cond: Mapping[str, Tensor]) -> Tensor:
        """cond["text"], (B, L, text_width)."""
        text = required(cond, "text")
        if text.shape[-1] != self.text_width:
            raise ValueError(f"cond['text'] is {text.shape[-1]} wide; this network has text_width={self.text_width}")
        return text

    def cross_attention(self, parts: Parts) -> nn.Module:
        """The module by which a block reads the text."""
        return NoCrossAttention(parts)


class NoText(Text):
    """The network is not told any text."""

    def forward(self, cond: Mapping[str, Tensor]) -> TextTokens:
        return TextTokens()


class CrossText(Text):
    """Cross-attention in every block (PixArt-alpha, Wan, LTX).

    embed: text features to width. attention: the block's, finished with its parts.
    """

    def __init__(
        self,
        text_width: int,
        width: int,
        *,
        embed: Callable[[int, int], nn.Module],
        attention: Callable[[Parts], nn.Module],
    ) -> None:
        super().__init__(text_width, width)
        self.embed = embed(text_width, width)
        self.attention = attention

    def forward(self, cond: Mapping[str, Tensor]) -> TextTokens:
        return TextTokens(context=self.embed(self.features(cond)), keep=cond.get("text_mask"))

    def cross_attention(self, parts: Parts) -> nn.Module:
        return self.attention(parts)


class JointText(Text):
    """Text tokens share the sequence and the blocks' weights with the video. embed: text features to width.

    sequence: the order of the two. Their output is not used.
    """

    def __init__(
        self, text_width: int, width: int, *, embed: Callable[[int, int], nn.Module], sequence: Sequence
    ) -> None:
        super().__init__(text_width, width)
        self.embed = embed(text_width, width)
        self.sequence = sequence

    def forward(self, cond: Mapping[str, Tensor]) -> TextTokens:
        return TextTokens(stream=self.embed(self.features(cond)), keep=cond.get("text_mask"))


def required(cond: Mapping[str, Tensor], key: str) -> Tensor:
    """cond[key], or a ValueError that says what is there."""
    if key not in cond:
        raise ValueError(f"this network needs cond[{key!r}], and got only: {', '.join(sorted(cond)) or 'nothing'}")
    return cond[key]
