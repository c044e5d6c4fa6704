"""Optimizers over a whole model, with its parameters in groups by their kind.

Weight decay pulls matrices (and convolution kernels) only: biases, norms, embeddings and tables of positions or
modulation keep their scale.

Under `net/init=mup` (`dit.net.init.MuP`) the rates of matrices depend on how many times the base's inputs they have: r
times as many have 1 / r of AdamW's rate, and r times the weight decay, so that rate times decay stays. Muon's rate
already depends on the shape: with adjust_lr=original nothing is to be done, and match_rms_adamw is brought to
grow as that does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from dit.engine.blocks import repeated_blocks
from dit.engine.muon import Muon, adjustment, minimax
from dit.net.init import base_shape, growth

ADJUSTMENTS = ("original", "match_rms_adamw")  # of Muon's rate
Scaled = list[tuple[Tensor, float]]  # parameters, and the factors on their rates


def adamw(
    model: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, fused: bool
) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) over the trainable parameters of `model`.

    Args:
        lr: peak learning rate; the schedule multiplies it.
        betas, eps: of the moments.
        weight_decay: for matrices; everything else has none.
        fused: one kernel for all parameters.

    Raises:
        ValueError: a number that cannot be one of AdamW's, or no parameter to train.
    """
    _check_adamw("", lr, betas, eps, weight_decay)
    matrices: Scaled = []
    rest: Scaled = []
    for parameter, decays, module in _trainable(model):
        (matrices if decays else rest).append((parameter, _adamw_factor(module) if decays else 1.0))
    if not matrices + rest:
        raise ValueError("optim=adamw found nothing to train: every parameter is frozen")
    return AdamW(
        _groups(lr, (matrices, weight_decay), (rest, 0.0)), lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=fused
    )


def muon(
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    ns_steps: int,
    ns_smallest: float | None,
    weight_decay: float,
    adjust_lr: str,
    adamw_lr: float,
    adamw_betas: tuple[float, float],
    adamw_eps: float,
    adamw_weight_decay: float,
) -> Optimizer:
    """Muon (Jordan et al. 2024) for the 2-D matrices inside repeated blocks, AdamW for everything else.

    Embeddings, patch and timestep projections, norms, biases and the final layer are no hidden matrices: their rows
    mean something one by one, so orthogonalising them does not help (kellerjordan.github.io/posts/muon).

    Args:
        lr: peak learning rate of the matrices.
        momentum, nesterov, ns_steps: of Muon; `ns_steps` Newton-Schulz iterations.
        ns_smallest: each iteration has the polynomial that is best for singular values from this one on, as shares of
            the matrix's norm (`dit.engine.muon.minimax`); None: all have Jordan's.
        weight_decay: of the matrices.
        adjust_lr: `match_rms_adamw` scales updates to AdamW's size, so that AdamW's rates fit (Liu et al. 2025, arXiv
            2502.16982); `original` scales by sqrt(max(1, rows / columns)).
        adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay: of the rest.

    Fused projections (q, k and v in one) are orthogonalised as the one matrix that they are. Sharded matrices (FSDP2)
    are orthogonalised whole.

    Raises:
        ValueError: a number that cannot be one of the optimizer's, or no matrix inside a repeated block.
    """
    _check_at_least_0("lr", lr)
    _check_at_least_0("weight_decay", weight_decay)
    _check_share("momentum", momentum, 0.95)
    if not isinstance(ns_steps, int) or not 1 <= ns_steps < 100:  # as torch has it
        raise ValueError(f"optim.ns_steps={ns_steps} must be a whole number from 1 to 99; 5 is usual")
    if ns_smallest is not None and not 0 < ns_smallest < 1:
        raise ValueError(
            f"optim.ns_smallest={ns_smallest} must be above 0 and below 1, or null for Jordan's polynomial"
        )
    if adjust_lr not in ADJUSTMENTS:
        raise ValueError(f"optim.adjust_lr={adjust_lr} must be {' or '.join(ADJUSTMENTS)}")
    _check_adamw("adamw_", adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay)
    repeated = {id(p) for block in repeated_blocks(model) for p in block.parameters()}
    hidden: Scaled = []
    matrices: Scaled = []
    rest: Scaled = []
    for parameter, decays, module in _trainable(model):
        if decays and parameter.ndim == 2 and id(parameter) in repeated:
            hidden.append((parameter, _muon_factor(module, adjust_lr)))
        else:
            (matrices if decays else rest).append((parameter, _adamw_factor(module) if decays else 1.0))
    if not hidden:
        raise ValueError("optim=muon found no matrix inside a repeated block of this model; use optim=adamw")
    by_muon = Muon(
        _groups(lr, (hidden, weight_decay)),
        lr=lr, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr,
    )  # fmt: skip
    if ns_smallest is not None:
        for group in by_muon.param_groups:
            group["ns_coefficients"] = minimax(ns_steps, ns_smallest)
    if not matrices + rest:
        return by_muon
    by_adamw = AdamW(
        _groups(adamw_lr, (matrices, adamw_weight_decay), (rest, 0.0)),
        lr=adamw_lr, betas=(adamw_betas[0], adamw_betas[1]), eps=adamw_eps, fused=True,
    )  # fmt: skip
    return Together(by_muon, by_adamw)


class Together(Optimizer):
    """Several optimizers as one: their groups in a row, one state, one plain `state_dict`.

    The parts keep no state of their own: they work on this optimizer's group dicts and state, so schedules, gradient
    scaling and checkpoints see a single ordinary optimizer.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts
        self.sizes = [len(part.param_groups) for part in parts]
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part, size in zip(self.parts, self.sizes, strict=True):
            part.param_groups = [next(groups) for _ in range(size)]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # load_state_dict ends here, with new dicts
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def joined(named: Mapping[str, Optimizer]) -> Together:
    """Several optimizers as one. Each parameter group names its optimizer under `optimizer`. Parameters without a
    gradient keep their values and state, as in torch: an optimizer without a loss in a step changes nothing."""
    for name, optimizer in named.items():
        for group in optimizer.param_groups:
            group["optimizer"] = name
    flat = [(each.parts if isinstance(each, Together) else (each,)) for each in named.values()]
    return Together(*(part for parts in flat for part in parts))


def _check_adamw(prefix: str, lr: float, betas: Sequence[float], eps: float, weight_decay: float) -> None:
    """ValueError for a number with which AdamW would refuse to start, or would spoil the weights."""
    _check_at_least_0(f"{prefix}lr", lr)
    _check_at_least_0(f"{prefix}weight_decay", weight_decay)
    if len(betas) != 2:
        raise ValueError(f"optim.{prefix}betas={list(betas)} must be two numbers, for example [0.9,0.99]")
    for i, beta in enumerate(betas):
        _check_share(f"{prefix}betas[{i}]", beta, (0.9, 0.99)[i])
    if not 0 < eps < math.inf:
        raise ValueError(f"optim.{prefix}eps={eps} must be a number above 0; 1e-8 is usual")


def _check_at_least_0(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"optim.{name}={value} must be a finite number, at least 0")


def _check_share(name: str, value: float, usual: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"optim.{name}={value} must be at least 0 and below 1; {usual} is usual")


def _trainable(model: nn.Module) -> Iterator[tuple[Tensor, bool, nn.Module]]:
    """(parameter, whether weight decay applies, its module) of every trainable parameter, each once."""
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                decays = parameter.ndim >= 2 and name.endswith("weight") and not isinstance(module, nn.Embedding)
                yield parameter, decays, module


def _adamw_factor(module: nn.Module) -> float:
    """On the rate of a matrix: the base's inputs over its own."""
    return 1 / growth(module)[1] if isinstance(module, nn.Linear) else 1.0


def _muon_factor(module: nn.Module, rule: str) -> float:
    """On the rate of a matrix, so that it grows with the shape as `original` does: the norm of its update is then
    sqrt(outputs / inputs), or the same at all widths (the spectral condition; Yang et al. 2023, arXiv 2310.17813)."""
    if not isinstance(module, nn.Linear):
        return 1.0
    (rows, columns), base = module.weight.shape, base_shape(module)
    here, there = (adjustment("original", *shape) / adjustment(rule, *shape) for shape in ((rows, columns), base))
    return here / there


def _groups(lr: float, *groups: tuple[Scaled, float]) -> list[dict[str, Any]]:
    """Parameter groups of (parameters with the factors on their rates, weight decay), one for each factor. What decay
    takes off in a step is rate times decay, which the factor leaves as it is."""
    made: list[dict[str, Any]] = []
    for parameters, decay in groups:
        by_factor: dict[float, list[Tensor]] = {}
        for parameter, factor in parameters:
            by_factor.setdefault(factor, []).append(parameter)
        for factor, params in by_factor.items():
            own = {} if factor == 1 else {"lr": lr * factor}
            made.append({"params": params, "weight_decay": decay / factor, **own})
    return made
