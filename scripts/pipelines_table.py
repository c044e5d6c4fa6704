"""How far our samples are from those of diffusers' pipelines: the table in docs/pipelines.md.

    python scripts/pipelines_table.py          # prints it and puts it into the page

Each pipeline is built with tiny random parts, saved, and sampled by both from the same noise: two prompts of different
lengths, five steps, with guidance and without, in float32 and in float64. It needs pip install -r requirements-dev.txt
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from dit.interop.published import PIPELINES
from scripts.twins.pipelines import (
    TWINS,
    Asked,
    grey_levels_apart,
    make,
    noise_for,
    ours,
    relative,
    run,
    run_in_float64,
    saved,
    saved_in_float64,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pipelines.md"
BEGIN, END = "<!-- scripts/pipelines_table.py writes from here -->", "<!-- to here -->"


def main() -> None:
    lines = [
        "| pipeline of diffusers | latents | guidance 4 | in float64 | pixels, grey levels | prompts swapped |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows(),
    ]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([before + BEGIN, *lines, END + after]), encoding="utf-8")
    print("\n".join(lines))


def rows() -> Iterator[str]:
    for name, twin in TWINS.items():
        with tempfile.TemporaryDirectory() as folder:
            theirs = saved(name, Path(folder))
            plain, guided = (
                differences(name, theirs, folder, replace(twin.asked, scale=scale)) for scale in (1.0, 4.0)
            )
        with tempfile.TemporaryDirectory() as folder:
            asked = replace(twin.asked, scale=4.0)
            exact = relative(*run_in_float64(saved_in_float64(name, Path(folder)), name, Path(folder), asked))
        pixels = f"{guided['pixels']:.1e}" if twin.decodes else "not compared"
        kind = type(theirs).__name__
        assert kind in PIPELINES, kind
        kind += f", {twin.title}" if twin.title else ""
        found = (plain["latents"], guided["latents"], exact)
        yield f"| {kind} | {' | '.join(f'{each:.1e}' for each in found)} | {pixels} | {guided['swapped']:.1e} |"


def differences(name: str, theirs: Any, folder: str, asked: Asked) -> dict[str, float]:
    """Largest differences: of latents relative to the largest latent, of pixels in grey levels."""
    pipeline = ours(name, folder, asked)
    noise = noise_for(pipeline, len(asked.seeds))
    wanted = run(theirs, name, noise, asked, "latent")
    made = make(pipeline, name, asked, noise)
    swapped = make(pipeline, name, replace(asked, prompts=asked.prompts[::-1]), noise)
    found = {"latents": relative(made.latents, wanted), "swapped": relative(swapped.latents, wanted)}
    if TWINS[name].decodes:
        found["pixels"] = grey_levels_apart(pipeline, theirs, name, made, noise, asked)
    return found


if __name__ == "__main__":
    main()
