"""Run by test_video_data.py under torchrun: straight through, then stopped and resumed; each rank writes what it saw.

usage: torchrun --nproc-per-node 2 tests/data/resume_job.py FOLDER NUM_WORKERS...
"""

import json
import sys
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from data.batch import Batch, Item
from data.module import VideoData


class Numbered:
    """Clip `i` is filled with `i % 256` and named `i`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        return Item(
            pixels=torch.full((3, 2, 4, 6), index % 256, dtype=torch.uint8),
            caption=f"clip {index}",
            id=str(index),
            fps=8.0,
        )


class Recorder(LightningModule):
    """Learns next to nothing and keeps the ids of each step; `die_at` breaks down inside that step."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[str]] = []
        self.validated: list[list[str]] = []
        self.die_at = die_at

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == self.die_at:
            raise KeyboardInterrupt
        self.seen.append(batch.ids)
        return (self.weight - batch.pixels.mean()).square()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated.append(batch.ids)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches  # touching it has silently reset loaders of others
        return torch.optim.SGD(self.parameters(), lr=0.1)


def numbered_data(
    count: int, val: int | None = 4, batch_size: int = 2, num_workers: int = 0, seed: int = 0, **changed: object
) -> VideoData:
    settings: dict[str, object] = {
        "val_batch_size": 2,
        "num_frames": 2,
        "height": 4,
        "width": 6,
        "fps": 8,
        "timeout": 60,
        "pin_memory": False,
        "max_bad_share": 0.0,
    }
    return VideoData(
        train=Numbered(count),
        val=None if val is None else Numbered(val),
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        **{**settings, **changed},  # type: ignore[arg-type]
    )


def trainer(max_steps: int, folder: Path, **settings: object) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,  # type: ignore[arg-type]
    )


def main(folder: Path, num_workers: int) -> None:
    folder.mkdir(exist_ok=True)
    checkpoint = folder / "stopped.ckpt"
    settings = {"devices": 2, "strategy": "ddp", "val_check_interval": 3}

    straight = Recorder()
    trainer(9, folder, **settings).fit(straight, numbered_data(11, num_workers=num_workers))
    first = Recorder()
    stopped = trainer(4, folder, **settings)
    stopped.fit(first, numbered_data(11, num_workers=num_workers))
    stopped.save_checkpoint(checkpoint)
    resumed = Recorder()
    going_on = trainer(9, folder, **settings)
    going_on.fit(resumed, numbered_data(11, num_workers=num_workers), ckpt_path=checkpoint)
    (folder / f"rank{going_on.global_rank}.json").write_text(
        json.dumps(
            {
                "straight": straight.seen,
                "first": first.seen,
                "resumed": resumed.seen,
                "validated": straight.validated,
                "weights": [straight.weight.item(), resumed.weight.item()],
            }
        )
    )


if __name__ == "__main__":
    for number in sys.argv[2:]:
        main(Path(sys.argv[1]) / number, int(number))
