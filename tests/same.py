"""Whether two builders made the same of a config."""

from __future__ import annotations

import functools
from typing import Any

import torch


def same(ours: Any, theirs: Any) -> bool:
    """Whether two objects hold the same: classes, settings, calls that are left to an owner, parameters' shapes."""
    if isinstance(ours, functools.partial):
        return (
            callable(theirs)
            and ours.func is theirs.func
            and not ours.args
            and not theirs.args
            and same(ours.keywords, theirs.keywords)
        )
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, torch.Tensor):
        return ours.shape == theirs.shape and ours.dtype == theirs.dtype
    if type(ours).__module__.startswith(("dit.", "data.", "torch.nn")) and hasattr(ours, "__dict__"):
        return same(vars(ours), vars(theirs))
    return ours == theirs if isinstance(ours, (bool, int, float, str)) else True
