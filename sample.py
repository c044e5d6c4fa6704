"""Samples videos from a checkpoint: `python sample.py ckpt=runs/mine prompt="a red circle moves right" seed=3`."""

from __future__ import annotations

from dit import entry
from dit.config.build import build
from dit.media.samples import write_samples
from dit.sampling.config import Config
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import output_folder, records, requests
from dit.sampling.runtime import progress_bar

CHECKPOINTS_OWN = ("schedule", "solver", "guidance", "num_steps", "num_frames", "height", "width", "fps")
SETTINGS = ("weights", "device", "batch_size", "context_level", "precision", "offload_text", "trusted")


@entry.main("sample")
def main(config: Config) -> None:
    ask = build(config)
    wanted = requests(*(ask[key] for key in ("prompt", "prompt_file", "negative_prompt", "num_samples", "seed")))
    prompts, negatives, seeds = (
        [getattr(each, key) for each in wanted] for key in ("prompt", "negative_prompt", "seed")
    )
    folder = output_folder(ask["out"], ask["ckpt"])
    pipeline = Pipeline.from_checkpoint(ask["ckpt"], **{key: ask[key] for key in (*SETTINGS, *CHECKPOINTS_OWN)})
    with progress_bar("sampling") as progress:
        samples = pipeline(prompts, seeds, task=ask["task"], negative_prompt=negatives, progress=progress)
    paths = write_samples(folder, samples.pixels, records(samples.info, str(ask["ckpt"])))
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
