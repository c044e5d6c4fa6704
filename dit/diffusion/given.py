"""What a network reads of given frames: their mask and, by some published models, their latents, as entries of `cond`.

The objective and the sampler both fill `cond` here, so training shows what sampling shows. These are no signals
(`dit/signals`): they are made of latents and of the task, anew for every chunk of a long clip, and neither caption
dropout nor guidance leaves them out.

- `given` (B, 1, F, H, W): 1 where known. For every network.
- `given_latents` (B, C, F, H, W): the clean latents where known, 0 elsewhere (CogVideoX, HunyuanVideo, Wan, SkyReels).
  Wan's own pipeline encodes grey frames in place of unknown ones: the same where a codec keeps 0 at 0 and frames apart.
- `given_frames` (B, n, F, H, W): the mask of pixel frames, n of which make a latent frame, folded into channels (Wan,
  SkyReels-V2). A latent frame is given as a whole here, so its n channels are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

KEYS = ("given", "given_latents", "given_frames")


def with_given(cond: Mapping[str, Tensor], net: Any, latents: Tensor, known: Tensor) -> dict[str, Tensor]:
    """`cond` with what `net` reads of given frames (the dict itself is left alone).

    Args:
        net: says what it reads beside the mask by `concat_channels`, name -> channels; without it, nothing.
        latents: clean (B, C, F, H, W); unknown entries are not read.
        known: bool, True where the latents are given, (B, 1, F, H, W) or what broadcasts to it.
    """
    batch, _, *grid = latents.shape
    mask = known.to(latents.dtype).expand(batch, 1, *grid)
    more = {**cond, "given": mask}
    wanted: Mapping[str, int] = getattr(net, "concat_channels", {})
    if "given_latents" in wanted:
        more["given_latents"] = torch.where(known, latents, 0)
    if "given_frames" in wanted:
        more["given_frames"] = mask.expand(-1, wanted["given_frames"], *grid)
    return more
