"""The class of a clip."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Any

import torch

from data.batch import NO_CLASS, Batch, Values
from dit.signals.base import Around, Asked, Clip, Cond, Data, Entry, Number

log = logging.getLogger(__name__)

SHOWN = 8  # names that a message lists


class Label(Number):
    """`label` (B,) int64: a class, or the network's `num_classes` for "no class".

    A sample's class is its label, a number or a name. Where the network is told no text, its prompt is the class.
    """

    entries = {"label": Entry((), torch.int64)}
    nothing = NO_CLASS
    example = NO_CLASS
    asked = ("label",)

    def __init__(self, around: Around) -> None:
        super().__init__(around)
        net: Any = around.net
        self.num_classes: int = net.num_classes
        self.classes = list(around.classes)
        self.prompts_are_classes = around.encoder is None
        self.untrained: set[int] = set()  # classes that were asked for all the same

    def of_batch(self, batch: Batch) -> Values:
        if "label" in batch.values:
            return batch.values["label"]
        return torch.full((len(batch),), NO_CLASS, device=batch.device)

    def of_request(self, asked: Asked, clip: Clip) -> int:
        label = asked.signals.get("label") if asked.label is None else asked.label
        said = asked.prompt if self.prompts_are_classes and label is None else label
        number = class_number(said, self.num_classes, self.classes)
        if 0 < len(self.classes) <= number and number not in self.untrained:
            self.untrained.add(number)
            log.warning("class %d is sampled, but the checkpoint was trained on %d classes", number, len(self.classes))
        return number

    def encode(self, values: Values) -> Cond:
        assert isinstance(values, torch.Tensor)
        return {"label": torch.where(values == NO_CLASS, self.num_classes, values)}

    def check(self, data: Data, name: str) -> None:
        if not data.classes:
            raise ValueError(
                "this network reads class labels, and the data has none: data.labels=folder or data.labels=column for"
                " real clips, data.train.labels=[colour,shape] data.val.labels=[colour,shape] for a world, or"
                " net/label=none"
            )
        if len(data.classes) > self.num_classes:
            raise ValueError(
                f"the data has {len(data.classes)} classes ({brief(data.classes)}), and this network knows"
                f" {self.num_classes}: net.vectors.label.num_classes={len(data.classes)}"
            )


def class_number(said: str | int | None, num_classes: int, names: Sequence[str]) -> int:
    """A class from its number or its name; None, "" and `num_classes` itself are `NO_CLASS`.

    names: of the classes, in the order of their numbers; a network may have room for more, or know no names. One may
        be several, with commas between, as ImageNet's are ("tench, Tinca tinca").

    Raises:
        ValueError: there is no such class, or there are several; in one line, with the nearest names.
    """
    if said is None or said == "":
        return NO_CLASS
    text = str(said).strip()
    synonyms = [(part.strip(), number) for number, name in enumerate(names) for part in name.split(",")]
    found = [number for number, name in enumerate(names) if name == text]
    found = found or list(dict.fromkeys(number for part, number in synonyms if part == text))
    if len(found) > 1:
        raise ValueError(f"class {said!r} is what classes {' and '.join(map(str, found))} are called: give the number")
    if found:
        return found[0]
    if text.isdecimal() and int(text) <= num_classes:
        return NO_CLASS if int(text) == num_classes else int(text)
    near = difflib.get_close_matches(text, [part for part, _ in synonyms], n=3, cutoff=0.5) or list(names[:SHOWN])
    more = f", ... ({len(names)} in all)" if len(names) > len(near) else ""
    known = f", or names: {', '.join(near)}{more}" if names else ""
    raise ValueError(f"class {said!r} is not known: this network reads class numbers, 0 to {num_classes - 1}{known}")


def brief(names: Sequence[str]) -> str:
    """Names for a message, the first of them where there are many."""
    return ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")
