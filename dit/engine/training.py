"""`Training`: the settings of the trainer group, and the Lightning trainer that they make."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import Callback, Trainer
from lightning.pytorch.strategies import Strategy

from dit.engine import precision, ranks
from dit.engine.callbacks.checkpoint import Files
from dit.machine import bfloat16_warning

MatmulPrecision = Literal["highest", "high", "medium"]


@dataclass(frozen=True)
class Training:
    """How long, on what, and how a step is put together.

    Args:
        max_steps: optimizer steps of the whole run; the learning-rate schedule ends there.
        accelerator: `auto` (a GPU where there is one), `cpu`, or `gpu`, also called `cuda`.
        devices: processes on each node, or `auto`; under torchrun and SLURM the launcher decides.
        num_nodes: machines, where no launcher says so.
        strategy: `parallel.DDP`, `parallel.FSDP2`, or None for one device.
        precision: `32-true`, `bf16-mixed`, or `auto`: bf16-mixed on a GPU that has units for it, else 32-true.
        matmul_precision: fp32 products on a GPU: `highest` (fp32), `high` (TF32).
        accumulate: micro-batches to an optimizer step.
        gradient_clip_norm: largest norm of the gradient, or None.
        compile_mode: torch.compile's mode for each block of the network, or None.
    """

    max_steps: int
    accelerator: Literal["auto", "cpu", "gpu", "cuda"]
    devices: int | str
    num_nodes: int
    strategy: Strategy | None
    precision: str
    matmul_precision: MatmulPrecision
    accumulate: int
    gradient_clip_norm: float | None
    compile_mode: str | None

    def __post_init__(self) -> None:
        for name in ("max_steps", "accumulate", "num_nodes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"trainer.{name}={value} must be a whole number, at least 1")
        if self.matmul_precision not in get_args(MatmulPrecision):
            known = ", ".join(get_args(MatmulPrecision))
            raise ValueError(f"trainer.matmul_precision={self.matmul_precision} must be one of {known}")
        if self.compile_mode is not None and self.compile_mode not in (modes := torch._inductor.list_mode_options()):
            raise ValueError(f"trainer.compile_mode={self.compile_mode} must be null or one of {', '.join(modes)}")
        if self.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
            asked = f"trainer.accelerator={self.accelerator}"
            raise ValueError(f"{asked}, but torch sees no GPU here; use trainer.accelerator=auto or cpu")
        precision.plugin(self.arithmetic, self.device_type)
        self._check_devices()
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if self.strategy is None and world_size > 1:
            raise ValueError(
                f"{world_size} processes were started, but this trainer uses one; give trainer=ddp or trainer=fsdp2"
            )

    def _check_devices(self) -> None:
        """Raises ValueError for a number of devices that there is not, or of which this trainer uses one."""
        if self.devices != "auto" and not (str(self.devices).isdecimal() and int(self.devices) > 0):
            raise ValueError(f"trainer.devices={self.devices} must be auto or a whole number, at least 1")
        several = [name for name in ("devices", "num_nodes") if getattr(self, name) not in ("auto", 1, "1")]
        if self.strategy is None and several:
            asked = " ".join(f"trainer.{name}={getattr(self, name)}" for name in several)
            raise ValueError(
                f"{asked}, but this trainer uses one device: trainer=ddp {asked}, or trainer=fsdp2 {asked}"
            )
        there = torch.cuda.device_count() if self.device_type == "cuda" else None
        if there is not None and self.devices_on_node() > there and not ranks.started_by_launcher():
            raise ValueError(f"trainer.devices={self.devices}, but torch sees {there} GPUs here")

    @property
    def device_type(self) -> str:
        return "cuda" if self.accelerator != "cpu" and torch.cuda.is_available() else "cpu"

    @property
    def arithmetic(self) -> str:
        """`32-true` or `bf16-mixed`."""
        return precision.resolved(self.precision, self.device_type)

    @property
    def autocast(self) -> torch.dtype | None:
        """What matrix products are computed in; None: in the dtype of the weights."""
        return torch.bfloat16 if self.arithmetic == "bf16-mixed" else None

    @property
    def starts_processes(self) -> bool:
        """True when Lightning would have to launch the other ranks itself."""
        if self.strategy is None or ranks.started_by_launcher():
            return False
        return self.devices_on_node() * self.num_nodes > 1

    @property
    def world_size(self) -> int:
        """Ranks that will train."""
        _, num_nodes = ranks.launched_devices() or (1, self.num_nodes)
        return self.processes_here * num_nodes if self.strategy is not None else 1

    @property
    def processes_here(self) -> int:
        """Ranks that will train on this machine."""
        if self.strategy is None:
            return 1
        return (ranks.launched_devices() or (self.devices_on_node(), self.num_nodes))[0]

    def slow_precision(self) -> str | None:
        """One line where this machine is slower in `precision` than without it."""
        if self.autocast is None:
            return None
        return bfloat16_warning(f"trainer.precision={self.precision}", "trainer.precision=32-true", self.device_type)

    def devices_on_node(self) -> int:
        if self.devices == "auto":
            return torch.cuda.device_count() if self.device_type == "cuda" and self.strategy is not None else 1
        return int(self.devices)

    def trainer(self, callbacks: Sequence[Callback], run: Path, done: int = 0) -> Trainer:
        """Lightning's trainer of a run.

        done: steps that are done already. Where all are, the trainer is given one more step, since validation or
        previews of the last one may still be due and Lightning's loop has to begin for them; `AfterStep` then ends it
        before that step.
        """
        return self.bare_trainer(
            self.strategy,
            plugins=[precision.plugin(self.arithmetic, self.device_type), Files()],
            max_steps=max(self.max_steps, done + 1),
            max_epochs=-1,  # the data has no end: steps are counted
            accumulate_grad_batches=self.accumulate,
            callbacks=list(callbacks),
            default_root_dir=run,
            limit_val_batches=0,  # callbacks/validation.py
            num_sanity_val_steps=0,
        )

    def bare_trainer(self, strategy: Strategy | None, **more: Any) -> Trainer:
        """Lightning's trainer on these devices, without bars, checkpoints, loggers and handlers of signals of its own.

        more: arguments of Lightning's.
        """
        torch.set_float32_matmul_precision(self.matmul_precision)
        devices, num_nodes = ranks.launched_devices() or (self.devices_on_node(), self.num_nodes)
        trainer = Trainer(
            accelerator="gpu" if self.device_type == "cuda" else "cpu",
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy if strategy is not None else "auto",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # clips deal themselves out to the ranks, and a run resumes exactly
            **more,
        )
        # Lightning's handler of SIGTERM ends a run without saving, and on several ranks waits for the others inside the
        # handler; under SLURM another one requeues the job. Ours (interrupts.py) stand from before the run to its end.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        return trainer
