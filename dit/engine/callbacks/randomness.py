"""Random states of all ranks: seeded at the start of a run, saved in each checkpoint, restored when it goes on."""

from __future__ import annotations

import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from dit.checkpoint import entries
from dit.engine import ranks, rng
from dit.engine.callbacks.place import Place

log = logging.getLogger(__name__)


class Randomness(Callback):
    """Each rank draws its own noise; a run that goes on draws what it would have drawn without the interruption.

    Args:
        seed: of the run.
    """

    place = Place.UPDATE

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._ready = False
        self._saved: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not before the first batch: building loaders and moving the model may draw numbers as well.
        if self._ready:
            return
        self._ready = True
        if len(self._saved) == trainer.world_size:
            rng.restore(self._saved[trainer.global_rank])
        else:
            if self._saved:
                log.info("resumed on %d ranks instead of %d: new random numbers", trainer.world_size, len(self._saved))
            rng.seed(self.seed, trainer.global_step, trainer.global_rank)
        self._saved = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        entries.RANDOM_STATES.put(checkpoint, ranks.gather_objects(rng.capture()))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = entries.RANDOM_STATES.of(checkpoint)
