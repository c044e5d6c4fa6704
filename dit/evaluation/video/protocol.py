"""A score and how it was come by.

The same clips give another FVD with another number of them, another way of resizing or other weights of the feature
network. So a score carries its `Protocol`, and a table puts two scores under one another only where these agree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """All that decides a score beside the clips themselves. Equal protocols make scores that can be compared.

    Attributes:
        split: which clips these are, in words: "val of clips.jsonl", "held-out prompts".
        clips: how many were scored.
        reference: how many they were held against; 0 where there is no other set.
        frames, height, width: of the clips as they were scored, in pixels.
        fps: frames a second; None where nobody said.
        resize: how frames came to the size that a network takes, "" where none does.
        network: name of the network (of features, of flow), "" where there is none.
        sha256: of its file or weights, "" where there is none.
        settings: what else decides the number, by name.
    """

    split: str
    clips: int
    reference: int
    frames: int
    height: int
    width: int
    fps: float | None
    resize: str = ""
    network: str = ""
    sha256: str = ""
    settings: tuple[tuple[str, str | float | int], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without what there is none of."""
        own = {key: value for key, value in asdict(self).items() if key != "settings" and value not in ("", None)}
        if not self.reference:
            del own["reference"]
        return own | dict(self.settings)


@dataclass(frozen=True)
class Score:
    """A number with its protocol.

    Attributes:
        name: of the measure; one that asks a network names it: "fvd[i3d]".
        value: the number.
        low, high: its 95 % interval, None where there is none.
        protocol: how it was measured.
        larger_is_better: None where neither is.
        unit: "share" (of 1), any other, or "".
        note: what must be said beside it, a sentence or more.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    protocol: Protocol
    larger_is_better: bool | None
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval}"
