"""What is done at each frame of a clip: keys of a game, steps of a robot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data.batch import Batch, Values, WithSpans
from dit.config.limits import Count
from dit.signals.base import Around, Asked, Clip, Cond, Data, Entry, Signal

NOTHING = -1  # no action is said


class Action(Signal):
    """`action` (B, num_frames) int64: for each frame of pixels the number of what is done when it is seen, or
    `num_actions` where nothing is said.

    A sample says one number for all of its frames, or one for each, as "2 2 3 0" or "2*2 3 0" for the same four.

    Args:
        column: of the data, with a number for each frame that is shown (`data.frame_columns`); -1 says nothing.
        num_actions: that the network knows, numbered from 0.
    """

    entries = {"action": Entry(("num_frames",), torch.int64)}
    nothing = NOTHING
    example = (0,)  # one for all frames
    asked = ("action",)
    by_frame = True

    def __init__(self, around: Around, *, column: str, num_actions: Count) -> None:
        super().__init__(around)
        self.column, self.num_actions = column, num_actions
        self.columns = (column,)

    def of_batch(self, batch: Batch) -> Values:
        values = batch.values[self.column]
        longest = max(shape.num_frames for shape in batch.shapes)
        if not isinstance(values, Tensor) or values.shape != (len(batch), longest):
            shape = "texts" if isinstance(values, list) else f"{tuple(values.shape)} numbers"
            raise ValueError(
                f"signals.action: the column {self.column} has {shape} for {len(batch)} clips of {longest} frames, and"
                f" one number for each frame is wanted: data.frame_columns=[{self.column}] in the place of data.columns"
            )
        if values.device.type == "cpu":  # elsewhere it would wait for the device
            self._check([each for each in values.flatten().tolist() if each == each])
        return values.nan_to_num(NOTHING).long()  # nan is behind the frames of shorter clips

    def _check(self, numbers: Sequence[float]) -> None:
        """Raises ValueError for numbers that are no actions."""
        for number in numbers:
            if number != int(number) or not NOTHING <= number < self.num_actions:
                raise ValueError(
                    f"the column {self.column} says action {number:g}, and this network knows 0 to"
                    f" {self.num_actions - 1}: net.vectors.action.num_actions=N is how many it knows"
                )

    def of_request(self, asked: Asked, clip: Clip) -> list[int]:
        """Of each frame. Raises ValueError, in one line, for what names no actions, or those of other frames."""
        said = asked.signals.get("action")
        if said is None:
            return [NOTHING] * clip.num_frames
        numbers = self._read(said)
        if len(numbers) == 1:
            return numbers * clip.num_frames
        if clip.whole is None:
            return numbers[: clip.num_frames]  # how many are wanted is known later
        if len(numbers) != clip.whole:
            raise ValueError(
                f"signals.action={said} says what is done at {len(numbers)} frames, and the sample has {clip.whole}:"
                f" give one number for all, or {clip.whole} of them (2*3 is 2 2 2)"
            )
        return numbers[clip.begin : clip.begin + clip.num_frames]

    def _read(self, said: Any) -> list[int]:
        parts = said if isinstance(said, (list, tuple)) else str(said).split()
        numbers: list[int] = []
        for part in parts:
            number, _, times = str(part).partition("*")
            if not (number.isdecimal() and (times or "1").isdecimal() and int(number) < self.num_actions):
                raise ValueError(
                    f"signals.action={said}: {part} is no action; they are numbered 0 to {self.num_actions - 1}, with"
                    " spaces between them, and 2*3 is 2 2 2"
                )
            numbers += [int(number)] * int(times or "1")
        if not numbers:
            raise ValueError("signals.action says nothing: leave it out, or give a number for each frame")
        return numbers

    def away_from(self, asked: Asked, clip: Clip) -> list[int]:
        return [NOTHING] * clip.num_frames

    def encode(self, values: Values) -> Cond:
        assert isinstance(values, Tensor)
        return {"action": torch.where(values == NOTHING, self.num_actions, values)}

    def check(self, data: Data, name: str) -> None:
        if self.column not in data.columns:
            there = ", ".join(data.columns) or "none"
            raise ValueError(
                f"signals.{name} is made from the column {self.column}, a number for each frame, and the data carries"
                f" {there}: data.frame_columns=[{self.column}] reads it from a manifest, data=world_steered makes it"
            )
        span = data.span(self.column) if isinstance(data, WithSpans) else None
        if span is not None and not NOTHING <= span[0] <= span[1] < self.num_actions:
            raise ValueError(
                f"the column {self.column} holds actions from {span[0]:g} to {span[1]:g}, and this network knows 0 to"
                f" {self.num_actions - 1}: net.vectors.action.num_actions={max(1, int(span[1]) + 1)}"
            )
