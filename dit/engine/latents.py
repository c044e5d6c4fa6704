"""What decides the latents of a run's clips: a latent cache says it, and is used where the run says the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from data.batch import Batch, WithFrameColumns, WithMaking, collate
from dit.codec.base import Codec
from dit.config.kinds import TARGET
from dit.diffusion.footage import patterns
from dit.diffusion.given import Beside
from dit.diffusion.loss import Objective
from dit.engine import pictures
from dit.engine.frozen import fingerprint
from dit.engine.rundir import FREE, lies_in
from dit.recipes.base import Recipe
from dit.signals.base import Signal
from dit.text.base import TextEncoder
from dit.text.pretrained import Pretrained

# Of `data`, beside what is free anyway: how clips are named, chosen and dealt out. In which of several shapes each clip
# is kept, the cache compares clip by clip.
OF_LOADING = tuple(
    f"data.{key}"
    for key in (
        *("cache", "shapes", "seed", "val_clips", "val_filter", "columns", "frame_columns", "weights", "weights_by"),
        *("epoch_clips", "made_by", TARGET),
    )
)
OF_DRAWING = ("codec.posterior", "codec.decode_timestep", "codec.decode_noise_scale")
DRAWS = 4096  # that show which frames are given beside clips
MOST = 4  # ways of giving frames of which latents are kept: each takes as much room as a clip

log = logging.getLogger(__name__)


def key(config: Mapping[str, Any], codec: Codec, clips: Sequence[Any]) -> dict[str, Any]:
    """What must be the same for two runs to have the same latents of a clip: codec, its weights, size, frame rate, and
    how pixels are made of a file; plain values.

    clips: those to train and to validate on.
    """
    weights = codec.state_dict()
    known = "fingerprint" in config["codec"]
    mark = {} if known or not weights else {"weights": fingerprint(weights)}
    making = sorted({each.making for each in clips if isinstance(each, WithMaking)})
    codec_and_data = {name: _without(config[name], name) for name in ("codec", "data")}
    codec_and_data["codec"] |= mark
    plain: dict[str, Any] = json.loads(json.dumps({**codec_and_data, "preprocessing": making}))
    return plain


def _without(node: Any, name: str) -> Any:
    """A part of a config without what may differ."""
    if not isinstance(node, Mapping):
        return node
    free = (*FREE, *OF_LOADING, *OF_DRAWING)
    kept = {key: value for key, value in node.items() if not lies_in(f"{name}.{key}", free)}
    return {key: _without(value, f"{name}.{key}") for key, value in kept.items()}


def kept_frames(signals: Mapping[str, Signal], objective: Objective) -> list[int]:
    """Which frames of pixels a run needs beside latents, -1 the last: for signals that look at some, and for previews
    that begin with them."""
    found = {frame for signal in signals.values() for frame in signal.frames}
    begins, ends = pictures.always_given(objective.conditioning)
    found |= {frame for frame, needed in ((0, begins), (-1, begins and ends)) if needed}
    return sorted(found, reverse=True)


def kept_patterns(objective: Objective, codec: Codec, num_frames: int) -> list[tuple[int, ...]]:
    """Numbers of frames that may be given beside a clip of so many frames, () left out; none where given frames stand
    in the clip. Raises ValueError where there are too many to keep latents of all."""
    given, compression = objective.given, codec.compression
    if not isinstance(given, Beside):
        return []
    known = given.known(objective.conditioning, DRAWS, num_frames, compression, torch.Generator().manual_seed(0))
    found = sorted(each for each in patterns(known) if each)
    if len(found) > MOST:
        raise ValueError(
            f"conditioning gives frames beside the clip in {len(found)} ways or more, and a latent cache keeps latents"
            f" of {MOST} at most: conditioning=i2v or first_last, or train without a cache"
        )
    return found


def use(
    data: Any,
    config: Mapping[str, Any],
    codec: Codec,
    text: TextEncoder | None,
    signals: Mapping[str, Signal],
    objective: Objective | None,
    recipe: Recipe,
) -> None:
    """Has latents, and what a published text encoder says of captions, read from the cache of a run's data, if it has
    one. Raises ValueError, in one line, for a cache that is not one of this run."""
    cache: Any = getattr(data, "cache", None)
    if cache is None:
        return
    check(cache, config, codec, [data.train, data.val], signals, objective, recipe)
    _ = data.cached  # raises where a clip is not there
    check_looked_at(signals, collate([data.training_clip(0)]), cache)
    if isinstance(text, Pretrained) and not text.sees_pictures:
        text.shelf = cache.prompts(text.mark)
        if text.shelf is None:
            log.warning(
                "data.cache=%s holds no prompts of this text encoder, which is loaded to say them;"
                " scripts/cache_latents.py adds them",
                cache.folder,
            )


def check(
    cache: Any,
    config: Mapping[str, Any],
    codec: Codec,
    clips: Sequence[Any],
    signals: Mapping[str, Signal],
    objective: Objective | None,
    recipe: Recipe,
) -> None:
    """Raises ValueError, in one line, where a cache is not one of this run's latents."""
    folder, about = cache.folder, cache.about
    if objective is None or recipe.sees_pixels:
        raise ValueError(
            f"data.cache={folder} holds latents, and {type(recipe).__name__} works on pixels: data.cache=null"
        )
    wanted = key(config, codec, clips)
    for name, before, now in (found for each in cache.chain for found in each.differences(wanted)):
        raise ValueError(
            f"data.cache={folder} is of other latents: {name} was {before} when it was made, and is {now} in this run;"
            " give the run what the cache was made with, or make another cache (scripts/cache_latents.py)"
        )
    if config["codec"].get("posterior") == "sample" and about["posterior"] != "sample":
        raise ValueError(
            f"data.cache={folder} keeps the mode of latents, and codec.posterior=sample draws them:"
            " codec.posterior=mode, or make a cache with codec.posterior=sample"
        )
    if missing := set(kept_frames(signals, objective)) - set(about["frames"]):
        which = " and ".join("the last" if frame < 0 else "the first" for frame in sorted(missing, reverse=True))
        raise ValueError(
            f"data.cache={folder} lacks pixels that this run looks at, {which} frame of each clip: make it again with"
            " the overrides of this run"
        )
    cut = [name for each in clips if isinstance(each, WithFrameColumns) for name in each.frame_columns]
    if cut and not about.get("excerpt"):
        raise ValueError(
            f"data.cache={folder} does not say which frames of a file a clip shows, by which data.frame_columns="
            f"[{','.join(dict.fromkeys(cut))}] are cut: make it again with the overrides of this run"
        )
    ways = kept_patterns(objective, codec, config["data"]["num_frames"])
    kept = [tuple(at) for at in about["given"]["frames"]]
    unknown = getattr(objective.given, "unknown", None)
    if ways and (about["given"]["unknown"] != unknown or not set(ways) <= set(kept)):
        raise ValueError(
            f"data.cache={folder} lacks latents of the frames that are given beside clips: make it again with this"
            f" run's conditioning and given.unknown={unknown}"
        )


def check_looked_at(signals: Mapping[str, Signal], kept: Batch, cache: Any) -> None:
    """Raises ValueError where a signal looks at frames of pixels that a cache does not keep.

    kept: a clip out of the cache. A signal must say the same of it and of a whole clip with the same kept frames, whose
    other frames are noise.
    """
    shape = kept.shapes[0]
    pixels = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for place, frame in enumerate(cache.about["frames"]):
        pixels[:, :, frame] = kept.clips[0][:, place]
    whole = replace(kept, pixels=pixels, encoded=(), lengths=())
    for name, signal in signals.items():
        wanted = signal.of_batch(whole)
        try:
            is_same = _same(wanted, signal.of_batch(kept))
        except (RuntimeError, LookupError, ArithmeticError):  # of torch, where frames are missing
            is_same = False
        if not is_same:
            raise ValueError(
                f"data.cache={cache.folder} keeps of a clip's pixels those frames alone that signals name in `frames`"
                f" (0 the first, -1 the last), and signals.{name} looks at others: make it from a column of the list,"
                " or data.cache=null"
            )


def _same(one: Any, other: Any) -> bool:
    """Whether two values of signals are equal; nan is equal to nan."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
