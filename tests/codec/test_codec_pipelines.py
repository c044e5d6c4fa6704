"""Each class's latents in the sense of its own pipeline: what that decodes of our latents is what we decode of them.

The pipelines run as they are. Their networks say nothing, and after the last step our latents are put in place of
theirs, so all that follows is theirs: factor, shift, mean and std, the call of the decoder, and the range of pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dit.codec.families import Affine
from dit.codec.pretrained import Pretrained
from tests.codec.autoencoders import clip, codec, diffusers, saved

TEXT = torch.zeros(1, 4, 8)
MASK = torch.ones(1, 4)


class Silent:
    """A network that says nothing about anything."""

    dtype = torch.float32

    def __init__(self, **config: Any) -> None:
        self.config = diffusers.configuration_utils.FrozenDict(config)

    def __call__(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (torch.zeros_like(hidden_states),)

    @contextlib.contextmanager
    def cache_context(self, *_: Any, **__: Any) -> Iterator[None]:
        yield


class Trusting:
    """In place of the guard of Cosmos, which is a package of its own; it sees a video in whole grey levels."""

    def to(self, *_: Any) -> None: ...

    def check_video_safety(self, video: Any) -> Any:
        return video


def put(latents: Tensor) -> dict[str, Any]:
    """What a pipeline is told to end its steps with `latents`."""
    return {
        "callback_on_step_end": lambda *_: {"latents": latents},
        "num_inference_steps": 2,
        "output_type": "pt",
        "return_dict": False,
    }


def shape(model: Any, latents: Tensor) -> dict[str, int]:
    frames, height, width = model.compression.pixel_shape(*latents.shape[2:])
    return {"num_frames": frames, "height": height, "width": width}


def wan(ours: Pretrained, latents: Tensor, name: str = "WanPipeline") -> Tensor:
    net = Silent(in_channels=4, patch_size=(1, 1, 1))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = getattr(diffusers, name)(None, None, ours.model, transformer=net, scheduler=scheduler)
    return pipe(prompt_embeds=TEXT, guidance_scale=1.0, **shape(ours, latents), **put(latents))[0]


def ltx(ours: Pretrained, latents: Tensor) -> Tensor:
    net, scheduler = Silent(in_channels=4, patch_size=1, patch_size_t=1), diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.LTXPipeline(scheduler, ours.model, None, None, net)
    packed = pipe._pack_latents(latents, 1, 1)
    told = {"prompt_embeds": TEXT, "prompt_attention_mask": MASK, "guidance_scale": 1.0}
    return pipe(**told, **shape(ours, latents), **put(packed))[0]


def cogvideox(ours: Pretrained, latents: Tensor) -> Tensor:
    net = Silent(in_channels=4, patch_size=1, patch_size_t=None, use_rotary_positional_embeddings=False)
    pipe = diffusers.CogVideoXPipeline(None, None, ours.model, net, diffusers.CogVideoXDDIMScheduler())
    told = {"prompt_embeds": TEXT, "guidance_scale": 1.0}
    return pipe(**told, **shape(ours, latents), **put(latents.transpose(1, 2)))[0]


def hunyuan(ours: Pretrained, latents: Tensor) -> Tensor:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.HunyuanVideoPipeline(None, None, Silent(in_channels=4), ours.model, scheduler, None, None)
    told = {"prompt_embeds": TEXT, "pooled_prompt_embeds": TEXT[:, 0], "prompt_attention_mask": MASK}
    return pipe(**told, **shape(ours, latents), **put(latents))[0]


def mochi(ours: Pretrained, latents: Tensor) -> Tensor:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.MochiPipeline(scheduler, ours.model, None, None, Silent(in_channels=12))
    told = {"prompt_embeds": TEXT, "prompt_attention_mask": MASK, "guidance_scale": 1.0}
    return pipe(**told, **shape(ours, latents), **put(latents))[0]


def allegro(ours: Pretrained, latents: Tensor) -> Tensor:
    ours.model.enable_tiling()
    ours.model.kernel = ours.model.stride = tuple(shape(ours, latents).values())
    decoded = diffusers.AllegroPipeline.decode_latents(SimpleNamespace(vae=ours.model), latents)
    return decoded.transpose(1, 2) / 2 + 0.5


def cosmos(ours: Pretrained, latents: Tensor) -> Tensor:
    scheduler = diffusers.EDMEulerScheduler(sigma_data=0.5)
    pipe = diffusers.CosmosTextToWorldPipeline(None, None, Silent(in_channels=4), ours.model, scheduler, Trusting())
    return pipe(prompt_embeds=TEXT, guidance_scale=1.0, **shape(ours, latents), **put(latents))[0]


def latte(ours: Pretrained, latents: Tensor) -> Tensor:
    decoded = diffusers.LattePipeline.decode_latents(SimpleNamespace(vae=ours.model), latents, latents.shape[2])
    return decoded.transpose(1, 2) / 2 + 0.5


def images(make: Callable[[Any], Any], **told: Any) -> Callable[[Pretrained, Tensor], Tensor]:
    """A pipeline of images, which decodes each frame as one."""

    def decoded(ours: Pretrained, latents: Tensor) -> Tensor:
        pipe = make(ours.model)
        _, height, width = ours.compression.pixel_shape(*latents.shape[2:])
        frames = latents.transpose(1, 2).flatten(0, 1)
        made = [pipe(**told, height=height, width=width, **put(each[None]))[0] for each in frames]
        return torch.cat(made)[None]

    return decoded


def sd3(vae: Any) -> Any:
    net, scheduler = Silent(in_channels=4, sample_size=8, patch_size=1), diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.StableDiffusion3Pipeline(net, scheduler, vae, *[None] * 6)


def sana(vae: Any) -> Any:
    net = Silent(in_channels=4, sample_size=8, patch_size=1, timestep_scale=1.0, out_channels=4)
    return diffusers.SanaPipeline(None, None, vae, net, diffusers.FlowMatchEulerDiscreteScheduler())


# Case -> how its pipeline decodes: (codec, latents) -> (1, F, 3, height, width) in [0, 1].
DECODED: dict[str, Callable[[Pretrained, Tensor], Tensor]] = {
    "kl": latte,
    "kl shifted": images(sd3, prompt_embeds=TEXT, pooled_prompt_embeds=TEXT[:, 0], guidance_scale=1.0),
    "dc": images(
        sana, prompt_embeds=TEXT, prompt_attention_mask=MASK, guidance_scale=1.0, use_resolution_binning=False
    ),
    "wan 2.1": wan,
    "wan 2.2": wan,
    "ltx": ltx,
    "cogvideox": cogvideox,
    "hunyuan": hunyuan,
    "mochi": mochi,
    "allegro": allegro,
    "cosmos": cosmos,
}
SCALES = {"cosmos": 0.5}
LEVEL = 1 / 127.5  # a grey level, where pixels are in [-1, 1]
SIZE = (32, 64)  # of pictures: what all of the pipelines take


@pytest.mark.parametrize("case", DECODED)
def test_the_pipeline_decodes_our_latents_as_we_do(case: str, tmp_path: Path) -> None:
    ours = codec(saved(case, tmp_path), scale=SCALES.get(case, 1.0))
    sizes = ours.latent_shape(clip(case).shape[2], *SIZE)
    latents = torch.randn(1, ours.channels, *sizes, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        theirs = DECODED[case](ours, latents).transpose(1, 2).clamp(0, 1) * 2 - 1
        assert theirs.std() > 0.01
        torch.testing.assert_close(
            ours.decode(latents), theirs, rtol=0, atol=1.01 * LEVEL if case == "cosmos" else 1e-5
        )

        # and would not, were any of it left out
        kept = ours._affine
        spoiled = {"gain twice": Affine(kept.mean, kept.gain**2), "no gain": Affine(kept.mean, kept.gain**0)}
        if kept.mean.any():
            spoiled["no mean"] = Affine(0 * kept.mean, kept.gain)
        for name, affine in spoiled.items():
            ours._affine = affine
            assert (ours.decode(latents) - theirs).abs().max() > 3 * LEVEL, name
