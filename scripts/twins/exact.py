"""diffusers in true float64: it computes norms, timesteps, rotary tables and solver steps in float32 on purpose, which
no exact comparison survives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ROUNDED = (torch.float32, torch.bfloat16)
DRAWING = (torch.randn, torch.randn_like)


class Double(TorchFunctionMode):
    """Whoever asks for float32 or bfloat16 gets float64. Normal numbers are drawn as in float32, where a generator
    gives others than in float64.

    rounds: whether it lets float32 be, for a while.
    """

    rounds = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.rounds:
            return func(*args, **kwargs)
        if func is Tensor.float:
            return args[0].double()
        if func in DRAWING:
            return func(*args, **{**kwargs, "dtype": torch.float32}).double()
        given = {name: precise(value) for name, value in kwargs.items()}
        return func(*(precise(value) for value in args), **given)


def precise(value: Any) -> Any:
    """float64 for a dtype that rounds; any other value as it is."""
    return torch.float64 if isinstance(value, torch.dtype) and value in ROUNDED else value


@contextmanager
def exact() -> Iterator[Double]:
    """True float64. Build and call the reference inside."""
    with default_dtype(torch.float64), Double() as mode:
        yield mode


@contextmanager
def exact_with(scheduler: Any, sigmas: Tensor | None = None) -> Iterator[None]:
    """The same for the call of a whole pipeline. Its scheduler chooses levels as always, which are numbers of float32,
    and computes with them, and tells the network of them, in float64.

    sigmas: to take in place of those that it chooses, which differ from them in the last digits of float32 alone.
    """
    kind = type(scheduler)
    choose = kind.set_timesteps
    with exact() as mode:

        @functools.wraps(choose)
        def chosen(self: Any, *arguments: Any, **more: Any) -> None:
            mode.rounds = True
            try:
                with default_dtype(torch.float32):
                    choose(self, *arguments, **more)
            finally:
                mode.rounds = False
            if sigmas is not None:
                torch.testing.assert_close(sigmas, self.sigmas[: len(sigmas)].double(), rtol=1e-6, atol=0)
            widen(self, sigmas)

        widen(scheduler)
        with patch.object(kind, "set_timesteps", chosen):
            yield


# What schedulers tell networks, of sigmas, where that is no whole number.
TOLD: dict[str, Callable[[Any], Tensor]] = {
    "FlowMatchEulerDiscreteScheduler": lambda s: s.sigmas[:-1] * s.config.num_train_timesteps,
    "EDMEulerScheduler": lambda s: s.sigmas[:-1].log() / 4,
}


def widen(scheduler: Any, sigmas: Tensor | None = None) -> None:
    """Lets a scheduler hold its numbers of float32 in float64, and what follows from them exactly."""
    for name, value in vars(scheduler).items():
        if isinstance(value, Tensor) and value.dtype is torch.float32:
            setattr(scheduler, name, value.double())
    if sigmas is not None:
        scheduler.sigmas[: len(sigmas)] = sigmas
    if (told := TOLD.get(type(scheduler).__name__)) is not None and len(scheduler.timesteps) < len(scheduler.sigmas):
        scheduler.timesteps = told(scheduler)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
