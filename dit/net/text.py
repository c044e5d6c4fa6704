"""How text enters the network: not at all, through cross-attention, or as tokens of the sequence."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dit.net.attention import Parts
from dit.net.embed import GELUProjection
from dit.net.reads import Reads, required
from dit.net.sequence import JointSequence, MeanOfFrames, NoiseLevels, TextFirst, TextLevel, TextTokens


class Text(nn.Module):
    """Base class of the ways in which text enters, built with (text_width, width). A way fills some of `TextTokens`:

    cross: tokens that the blocks' cross-attention reads; cross_width is their width.
    stream: tokens that pass through the blocks with the video; stream_width is their width, None: there are none.
      sequence: whether they stand in front of the video or behind it. level: the noise level by which they are
      modulated, where frames have levels of their own.
    vector: one vector of the whole text, added to that of the noise level; vector_width is its width, or None.

    reads: the keys of cond that this way reads. reads_level: whether its tokens depend on the noise level t too.
      Where not, a sampler makes them once (`text_reuse.py`).
    """

    reads = Reads(("text",), ("text_mask",))
    reads_level = True

    sequence: JointSequence = TextFirst()
    level: TextLevel = MeanOfFrames()
    stream_width: int | None = None
    vector_width: int | None = None

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.text_width = text_width
        self.cross_width = width

    @abstractmethod
    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        """`text` (B, L, text_width) and `text_mask` (B, L; absent: all real) of cond, and noise levels -> tokens."""

    def features(self, cond: Mapping[str, Tensor]) -> Tensor:
        """cond["text"], (B, L, text_width)."""
        text = required(cond, "text")
        if text.shape[-1] != self.text_width:
            raise ValueError(
                f"cond['text'] is {text.shape[-1]} wide; this network has text_width={self.text_width}: set"
                f" net.text_width={text.shape[-1]}, or take an encoder as wide as that"
            )
        return text

    def cross_attention(self, parts: Parts) -> nn.Module | None:
        """The module by which a block reads the text beside the sequence, or None."""
        return None


class NoText(Text):
    """The network is not told any text."""

    reads = Reads()
    reads_level = False

    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        return TextTokens()


def reads_text(node: Mapping[str, Any] | None) -> bool:
    """Whether `net.text` of a config is a part that reads text; null in configs of before `NoText`."""
    return node is not None and node["_target_"] != f"{NoText.__module__}.{NoText.__qualname__}"


class CrossText(Text):
    """Cross-attention in every block (PixArt-alpha, Wan, LTX).

    embed: text features to width, or null: blocks read them as they are. image: features of an image, cond["image"]
    (B, M, any), to tokens of this width, or null: the network reads none; it may be absent from cond.
    attention: the block's, finished with its parts.
    """

    reads_level = False

    def __init__(
        self,
        text_width: int,
        width: int,
        *,
        embed: Callable[[int, int], nn.Module] | None,
        image: Callable[[int], nn.Module] | None,
        attention: Callable[[Parts], nn.Module],
    ) -> None:
        super().__init__(text_width, width)
        self.cross_width = text_width if embed is None else width
        self.embed = nn.Identity() if embed is None else embed(text_width, width)
        self.image = None if image is None else image(width)
        if image is not None:
            self.reads = Reads(("text",), ("text_mask", "image"))
        self.attention = attention

    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        image = None if self.image is None or "image" not in cond else self.image(cond["image"])
        return TextTokens(cross=self.embed(self.features(cond)), mask=cond.get("text_mask"), image=image)

    def cross_attention(self, parts: Parts) -> nn.Module:
        return self.attention(parts)


class NarrowCrossText(CrossText):
    """Cross-attention to text that a Linear and a GELU have made narrow (Cosmos 2.5: 100352 to 1024 channels).

    context_width: of what blocks read. The other arguments are `CrossText`'s.
    """

    def __init__(
        self,
        text_width: int,
        width: int,
        *,
        context_width: int,
        image: Callable[[int], nn.Module] | None,
        attention: Callable[[Parts], nn.Module],
    ) -> None:
        super().__init__(text_width, width, embed=None, image=image, attention=attention)
        self.cross_width = context_width
        self.embed = GELUProjection(context_width, features=text_width)


class JointText(Text):
    """Text tokens share the sequence and the blocks' weights with the video. embed: text features to width.

    sequence: the order of the two. level: which noise level text tokens take. Their output is not used.
    """

    reads_level = False

    def __init__(
        self,
        text_width: int,
        width: int,
        *,
        embed: Callable[[int, int], nn.Module],
        sequence: JointSequence,
        level: TextLevel,
    ) -> None:
        super().__init__(text_width, width)
        self.stream_width = width
        self.embed = embed(text_width, width)
        self.sequence, self.level = sequence, level

    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        return TextTokens(stream=self.embed(self.features(cond)), mask=cond.get("text_mask"))


class WholeText(JointText):
    """As `JointText`, but padding is read like text: cond["text_mask"] is not used. CogVideoX (arXiv 2408.06072) was
    trained so, on texts padded to one length. The arguments are `JointText`'s.
    """

    reads = Reads(("text",))

    def forward(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        return TextTokens(stream=self.embed(self.features(cond)))


class TokenLinear(nn.Linear):
    """Text features to the network's width by one Linear. length: tokens that a text must have, or null: any number."""

    def __init__(self, text_width: int, width: int, *, length: int | None) -> None:
        super().__init__(text_width, width)
        self.length = length

    def forward(self, text: Tensor) -> Tensor:
        """text (B, L, text_width) -> (B, L, width)."""
        if self.length is not None and text.shape[1] != self.length:
            raise ValueError(
                f"cond['text'] has {text.shape[1]} tokens; this network reads texts of {self.length}: pad them to that"
            )
        return super().forward(text)


class PlacedTokens(TokenLinear):
    """As `TokenLinear`, with a learned position for each token (CogVideoX-5B image-to-video). length: of the texts."""

    def __init__(self, text_width: int, width: int, *, length: int) -> None:
        super().__init__(text_width, width, length=length)
        self.table = nn.Parameter(torch.zeros(1, length, width))

    def init_own(self, std: float) -> None:
        """Positions of text start at zero; called by the network's init part."""
        nn.init.zeros_(self.table)

    def forward(self, text: Tensor) -> Tensor:
        """text (B, L, text_width) -> (B, L, width)."""
        return super().forward(text) + self.table
