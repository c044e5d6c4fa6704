"""What this project knows about one class of diffusers: its settings, the names of its weights, how it is called."""

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
FURTHEST = 1e30  # from zero, of other numbers: float32 ends at 3e38
Call: TypeAlias = tuple[Tensor, Tensor, dict[str, Tensor]]


class Family(ABC):
    """One class of diffusers: from its `config.json` to a config of ours (`overrides`), and back (`config`).

    class_name: its `_class_name`. preset: the config of configs/net that `overrides` changes.
    defaults: every setting of the class's constructor and its default, lists for tuples. A value must have the type of
      the default.
    also: setting -> examples of other types that it may have, such as None.
    depths: the settings that count blocks.
    loads_lora: whether diffusers' class, or its pipeline, loads adapters.
    inferred: settings, with defaults, that the weights show and config.json does not hold (`infer`). Their names begin
      with an underscore.
    """

    class_name: ClassVar[str]
    preset: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]
    also: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    depths: ClassVar[tuple[str, ...]] = ("num_layers",)
    loads_lora: ClassVar[bool] = True
    inferred: ClassVar[Mapping[str, Any]] = {}

    def adopt(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """config.json with today's names, where an older version of this class wrote it; None for any other config."""
        return None

    def infer(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """The settings that `inferred` names. weights: under the class's names; as few as possible are read.

        Wrong weights raise nothing here; they do when they are loaded.
        """
        return {}

    def settings(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The class's settings: those of config.json, and defaults for the others.

        Raises ValueError for a setting that is not known here, since it may change what the network computes, and for a
        value of a wrong type.
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
        """A value of config.json, if it has a type that this setting takes; else ValueError."""
        examples = (self.defaults[name], *self.also.get(name, ()))
        least = 0 if name in self.depths or 0 in examples else 1
        if not any(like(value, example, least) for example in examples):
            said = " or ".join(dict.fromkeys(in_words(example, least) for example in examples))
            raise ValueError(f"{name}={'null' if value is None else shown(value)} must be {said}")
        # JSON has no other way to write 1.0 than that: whole numbers are written as such.
        if isinstance(value, tuple):
            return list(value)  # the config of an object holds tuples
        return float(value) if type(value) is int and isinstance(examples[0], float) else value

    @abstractmethod
    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        """Settings, `inferred` ones too -> the changes that make the preset this network.

        Raises ValueError for a setting that no part of ours computes.
        """

    @abstractmethod
    def config(self, net: Network) -> dict[str, Any]:
        """The settings (and `inferred`) of a network that has this family's parts: the inverse of `overrides`.

        May raise AttributeError or ValueError for a network that has other parts.
        """

    @abstractmethod
    def links(self, net: Network) -> list[Link]:
        """Our names and theirs, for a network with this family's parts; it may be on the meta device."""

    @abstractmethod
    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        """Arguments of the class's own `forward` -> x, t, cond.

        Raises ValueError for an argument that the network cannot take.
        """

    def output(self, out: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """Our output in the layout of theirs."""
        return out

    def never(self, net: Network) -> str | None:
        """Why a network that resembles this class is none, in words; None: no such reason is known."""
        return None


@dataclass(frozen=True)
class Overrides:
    """Changes of a preset. Choices come from our code alone. Values may come from any file: they are set as they are,
    and never parsed.

    groups: group of configs/net -> its option. values: dotted key of the network's config -> plain value. A mapping
    changes the entries that it names, or adds them.
    """

    groups: Mapping[str, str]
    values: Mapping[str, Any]


def like(value: Any, example: Any, least: int = 0) -> bool:
    """Whether a value has the type of an example: None, bool, a whole number of at least `least`, a finite number, str,
    or a list of the same length with elements of one type."""
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
    """The type of an example, for messages."""
    if isinstance(example, list):
        each = "whole numbers" if type(example[0]) is int else "numbers"
        return f"a list of {len(example)} {each}"
    whole = f"a whole number from {least} to {LARGEST}"
    words = {type(None): "null", bool: "true or false", int: whole, float: "a number", str: "a text"}
    return words[type(example)]


def take(arguments: Mapping[str, Any], *known: str) -> list[Any]:
    """The arguments of these names; None for absent ones.

    Raises ValueError for any other argument that is given, since it would be ignored, and when hidden_states, timestep
    or encoder_hidden_states is known and missing.
    """
    harmless = {"return_dict", "attention_kwargs", "cross_attention_kwargs"}
    for name, value in arguments.items():
        if name not in known and name not in harmless and value is not None and value is not False:
            raise ValueError(f"{name} is not an argument that this network can take; there are {', '.join(known)}")
    for name in ("hidden_states", "timestep", "encoder_hidden_states"):
        if name in known and not isinstance(arguments.get(name), (Tensor, tuple)):
            raise ValueError(f"{name}={arguments.get(name)} must be a tensor")
    return [arguments.get(name) for name in known]


def attended(mask: Tensor) -> Tensor:
    """A padding mask (B, L) of ones and zeros, 0 is padding -> bool, True where the reference attends.

    The reference adds -10000 to the scores of padding. In a row of zeros that changes all scores alike, so all tokens
    are attended. Raises ValueError for other numbers.
    """
    real = mask.bool()
    if not torch.equal(real.to(mask.dtype), mask):
        raise ValueError("encoder_attention_mask must hold 1 for real tokens and 0 for padding, and no other number")
    return real | ~real.any(dim=1, keepdim=True)


def levels(timestep: Tensor, scale: float, grid: Sequence[int]) -> Tensor:
    """Timesteps (), (B,), (B, F) or (B, N tokens), `scale` times our levels -> t (B, 1) or (B, F), float64.

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
