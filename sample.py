"""Samples videos from a checkpoint: `python sample.py ckpt=runs/mine prompt="a red circle moves right" seed=3`."""

from __future__ import annotations

from dit import entry
from dit.config.build import build
from dit.media.samples import SampleSet
from dit.sampling.config import Config
from dit.sampling.ranks import together
from dit.sampling.request import kept_if_used, take_folder
from dit.sampling.runtime import progress_bar
from dit.sampling.session import session


@entry.main("sample")
def main(config: Config) -> None:
    ask = build(config)
    with together() as ranks, progress_bar("sampling") as progress:
        asked = session(ask)
        folder = ranks.first(lambda: take_folder(ask["out"], ask["ckpt"] or ask["again"], asked.facts))
        samples = SampleSet(folder, asked.facts)
        with kept_if_used(folder):
            written = [samples.write(*clip) for clip in asked.clips(samples.has, ranks, progress)]
        ranks.wait()
        sheet = ranks.first(lambda: samples.sheet(ask["sheet_clips"]))
    print("\n".join(str(path) for path in (*written, *([sheet] if ranks.rank == 0 else []))))


if __name__ == "__main__":
    main()
