"""What this project knows of one class of diffusers: its settings, the names of its weights, how it is called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from dit.foreign import shown
from dit.interop.weights import Link

# A Backbone (dit.net.backbone). Its parts are whatever its config made them, so their attributes have no static type.
Network: TypeAlias = Any
STORAGE = ("torch_dtype", "dtype")  # of config.json: the weights themselves say how they are stored
QUANTISED = "quantization_config"
LARGEST = 2**31 - 1  # of whole numbers, in sizes
FURTHEST = 1e30  # from zero, of numbers: beyond, float32 ends
Call: TypeAlias = tuple[Tensor, Tensor, dict[str, Tensor]]


class Family(ABC):
    """One class of diffusers. Both directions start from plain values: its `config.json`, or one of our networks.

    class_name: its `_class_name`. preset: the config of configs/net that `overrides` starts from.
    defaults: every setting of its constructor with the default there, lists for tuples. A value must be of its kind.
    also: examples of the other kinds that a setting takes, such as None.
    depths: those that count blocks.
    inferred: settings that its config.json does not hold but its weights tell (`infer`), with defaults; their names
      begin with an underscore.
    """

    class_name: ClassVar[str]
    preset: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]
    also: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    depths: ClassVar[tuple[str, ...]] = ("num_layers",)
    inferred: ClassVar[Mapping[str, Any]] = {}

    def adopt(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """config.json of this class as it was written under an older name, in today's words; None: it is not."""
        return None

    def infer(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """What `inferred` names, from weights under their names; reads no more of them than it must.

        Weights that do not fit are no error here.
        """
        return {}

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json with the defaults filled in, without what says nothing of the network.

        Raises ValueError for a setting that is not known here, since it may change what the network computes, and for a
        value of another kind than the class takes.
        """
        own = {key: value for key, value in config.items() if not key.startswith("_") and key not in STORAGE}
        if own.get(QUANTISED):
            raise ValueError(f"{QUANTISED}: quantised weights are not supported; take those that they were made from")
        if unknown := sorted(own.keys() - self.defaults.keys() - {QUANTISED}):
            raise ValueError(
                f"{self.class_name} has a setting that is not known here: {shown(unknown[0])[1:-1]}={own[unknown[0]]};"
                " take it out of the config if the network computes the same without it"
            )
        own.pop(QUANTISED, None)
        return {**self.defaults, **{key: self._checked(key, value) for key, value in own.items()}}

    def _checked(self, name: str, value: Any) -> Any:
        """A value of config.json, which may be anything, if it is of a kind that this setting takes."""
        examples = (self.defaults[name], *self.also.get(name, ()))
        least = 0 if name in self.depths or 0 in examples else 1
        if not any(like(value, example, least) for example in examples):
            said = " or ".join(dict.fromkeys(in_words(example, least) for example in examples))
            raise ValueError(f"{name}={'null' if value is None else shown(value)} must be {said}")
        # JSON has no other way to write 1.0 than that: whole numbers are written as such.
        if isinstance(value, tuple):
            return list(value)  # of an object; its config has tuples
        return float(value) if type(value) is int and isinstance(examples[0], float) else value

    @abstractmethod
    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        """Settings and what `inferred` names -> what makes the preset this network.

        Raises ValueError for a setting that no part of ours can be.
        """

    @abstractmethod
    def config(self, net: Network) -> dict[str, Any]:
        """The settings (and `inferred`) of a network that has this family's parts: the inverse of `overrides`.

        May raise AttributeError or ValueError for a network that has other parts.
        """

    @abstractmethod
    def links(self, net: Network) -> list[Link]:
        """Our names and theirs, for a network with this family's parts (the meta device will do)."""

    @abstractmethod
    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        """Arguments of the class's own `forward` -> x, t, cond.

        Raises ValueError for an argument that the network cannot take.
        """

    def output(self, out: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """Our output in the layout of theirs."""
        return out

    def never(self, net: Network) -> str | None:
        """Why a network that looks like this class can never be one, in words; None: nothing is known to say."""
        return None


@dataclass(frozen=True)
class Overrides:
    """What to change in a preset: choices, which our code alone makes, and values, which may come from any file and are
    set as they are, never read as text.

    groups: group of configs/net -> its option. values: dotted key of the network's config -> plain value; a mapping
    gives new values to entries, and may add some.
    """

    groups: Mapping[str, str]
    values: Mapping[str, Any]


def like(value: Any, example: Any, least: int = 0) -> bool:
    """Whether a value is of an example's kind: nothing, a truth value, a whole number of at least `least`, a finite
    number, a text, a list of as many of one kind."""
    if isinstance(example, list):
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(example)
            and all(like(x, example[0], least) for x in value)
        )
    if type(example) is int:
        return type(value) is int and least <= value <= LARGEST
    if type(example) is float:
        return type(value) in (int, float) and abs(value) <= FURTHEST
    return type(value) is type(example)


def in_words(example: Any, least: int) -> str:
    """The kind of an example, for messages."""
    if isinstance(example, list):
        each = "whole numbers" if type(example[0]) is int else "numbers"
        return f"a list of {len(example)} {each}"
    whole = f"a whole number from {least} to {LARGEST}"
    words = {type(None): "null", bool: "true or false", int: whole, float: "a number", str: "a text"}
    return words[type(example)]


def take(arguments: Mapping[str, Any], *known: str) -> list[Any]:
    """The named arguments, None for absent ones.

    Raises ValueError for any other argument that is not None: it would be ignored silently, and when one that every
    class needs is none.
    """
    harmless = {"return_dict", "attention_kwargs", "cross_attention_kwargs"}
    for name, value in arguments.items():
        if name not in known and name not in harmless and value is not None and value is not False:
            raise ValueError(f"{name} is not an argument that this network can take; there are {', '.join(known)}")
    for name in ("hidden_states", "timestep", "encoder_hidden_states"):
        if name in known and not isinstance(arguments.get(name), (Tensor, tuple)):
            raise ValueError(f"{name}={arguments.get(name)} must be a tensor")
    return [arguments.get(name) for name in known]


def kept(mask: Tensor) -> Tensor:
    """A padding mask (B, L) that the reference turns into scores, 0 for 1 and -10000 for 0, -> bool, True: attended.

    A row of zeros hides nothing there, since all its scores sink alike. Raises ValueError for other numbers.
    """
    keep = mask.bool()
    if not torch.equal(keep.to(mask.dtype), mask):
        raise ValueError("encoder_attention_mask must hold nothing but 1, a real token, and 0, padding")
    return keep | ~keep.any(dim=1, keepdim=True)


def levels(timestep: Tensor, scale: float, grid: Sequence[int]) -> Tensor:
    """Timesteps (), (B,), (B, F) or (B, N), one a token, in the reference's units -> t (B, 1) or (B, F), float64.

    grid: tokens along (f, h, w). Raises ValueError when tokens of one frame have different timesteps.
    """
    t = timestep.to(torch.float64) / scale
    if t.dim() < 2:
        return t.reshape(-1, 1)
    frames, tokens = grid[0], grid[1] * grid[2]
    if t.shape[1] == frames * tokens and tokens > 1:
        t = t.unflatten(1, (frames, tokens))
        if not torch.equal(t, t[..., :1].expand_as(t)):
            raise ValueError("timesteps that differ within a frame are not supported: one for each frame is")
        return t[..., 0]
    return t
