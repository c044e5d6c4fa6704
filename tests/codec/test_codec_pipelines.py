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
        return (torch.zeros_like(hidden_states[:, : self.config.get("out_channels")]),)

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


def wan(ours: Pretrained, latents: Tensor) -> Tensor:
    net = Silent(in_channels=4, patch_size=(1, 1, 1))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.WanPipeline(None, None, ours.model, transformer=net, scheduler=scheduler)
    return pipe(prompt_embeds=TEXT, guidance_scale=1.0, **shape(ours, latents), **put(latents))[0]


def skyreels(ours: Pretrained, latents: Tensor) -> Tensor:
    net = Silent(in_channels=4, patch_size=(1, 1, 1))
    pipe = diffusers.SkyReelsV2Pipeline(None, None, net, ours.model, diffusers.UniPCMultistepScheduler())
    return pipe(prompt_embeds=TEXT, guidance_scale=1.0, **shape(ours, latents), **put(latents))[0]


def ltx2(ours: Pretrained, latents: Tensor) -> Tensor:
    """As the end of the pipeline says it; the whole has an audio half that these parts are not of."""
    stored = (ours.model.latents_mean, ours.model.latents_std, ours.model.config.scaling_factor)
    decoded = ours.model.decode(diffusers.LTX2Pipeline._denormalize_latents(latents, *stored), None).sample
    return decoded.transpose(1, 2) / 2 + 0.5


def ltx(ours: Pretrained, latents: Tensor) -> Tensor:
    net, scheduler = Silent(in_channels=4, patch_size=1, patch_size_t=1), diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.LTXPipeline(scheduler, ours.model, None, None, net)
    packed = pipe._pack_latents(latents, 1, 1)
    told = {"prompt_embeds": TEXT, "prompt_attention_mask": MASK, "guidance_scale": 1.0}
    noisy = {"decode_timestep": ours.decode_timestep, "decode_noise_scale": ours.decode_noise_scale}
    return pipe(**told, **noisy, **shape(ours, latents), **put(packed))[0]


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


def hunyuan15(ours: Pretrained, latents: Tensor) -> Tensor:
    """It calls nobody back: a flow of nothing from our latents on ends with them."""
    net = Silent(in_channels=9, out_channels=4, target_size=32, image_embed_dim=8)
    scheduler, guider = diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.ClassifierFreeGuidance(enabled=False)
    pipe = diffusers.HunyuanVideo15Pipeline(None, None, net, ours.model, scheduler, None, None, guider)
    pipe.num_channels_latents = 4
    told = {"prompt_embeds": TEXT, "prompt_embeds_mask": MASK, "prompt_embeds_2": TEXT, "prompt_embeds_mask_2": MASK}
    asked = {key: value for key, value in put(latents).items() if key != "callback_on_step_end"}
    return pipe(**told, latents=latents, **shape(ours, latents), **asked)[0]


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


def cosmos2(ours: Pretrained, latents: Tensor) -> Tensor:
    net, scheduler = Silent(in_channels=5), diffusers.FlowMatchEulerDiscreteScheduler()
    pipe = diffusers.Cosmos2TextToImagePipeline(None, None, net, ours.model, scheduler, Trusting())
    _, height, width = ours.compression.pixel_shape(*latents.shape[2:])
    first = pipe(prompt_embeds=TEXT, guidance_scale=1.0, height=height, width=width, **put(latents[:, :, :1]))[0]
    return first[:, None]


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


SD3 = images(sd3, prompt_embeds=TEXT, pooled_prompt_embeds=TEXT[:, 0], guidance_scale=1.0)
SANA = images(sana, prompt_embeds=TEXT, prompt_attention_mask=MASK, guidance_scale=1.0, use_resolution_binning=False)
# (case, how a pipeline of it decodes: (codec, latents) -> (1, F, 3, height, width) in [0, 1], settings of the codec)
DECODED: list[tuple[str, Callable[[Pretrained, Tensor], Tensor], dict[str, Any]]] = [
    ("kl", latte, {}),
    ("kl shifted", SD3, {}),
    ("tiny", SD3, {}),
    ("dc", SANA, {}),
    ("wan 2.1", wan, {}),
    ("wan 2.2", wan, {}),
    ("wan 2.1", skyreels, {}),
    ("wan 2.1", cosmos2, {}),
    ("ltx", ltx, {}),
    ("ltx told its noise", ltx, {"decode_timestep": 0.05}),
    ("ltx 2", ltx2, {}),
    ("cogvideox", cogvideox, {}),
    ("hunyuan", hunyuan, {}),
    ("hunyuan 1.5", hunyuan15, {}),
    ("mochi", mochi, {}),
    ("allegro", allegro, {}),
    ("cosmos", cosmos, {"scale": 0.5}),
]
LEVEL = 1 / 127.5  # a grey level, where pixels are in [-1, 1]
SIZE = (32, 64)  # of pictures: what all of the pipelines take


@pytest.mark.parametrize(
    "case, decoded, settings", DECODED, ids=[f"{case}-{i}" for i, (case, _, _) in enumerate(DECODED)]
)
def test_the_pipeline_decodes_our_latents_as_we_do(
    case: str, decoded: Callable[[Pretrained, Tensor], Tensor], settings: dict[str, Any], tmp_path: Path
) -> None:
    quiet = {"decoder_inject_noise": [False] * 3} if case == "ltx told its noise" else {}  # it draws by nobody's seed
    ours = codec(saved(case, tmp_path, **quiet), **settings)
    sizes = ours.latent_shape(clip(case).shape[2], *SIZE)
    latents = torch.randn(1, ours.channels, *sizes, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        theirs = decoded(ours, latents).transpose(1, 2).clamp(0, 1) * 2 - 1
        frames = slice(theirs.shape[2])  # of a clip, or of its first picture
        within = 1.01 * LEVEL if decoded in (cosmos, cosmos2) else 1e-5
        assert theirs.std() > 0.01
        torch.testing.assert_close(ours.decode(latents)[:, :, frames], theirs, rtol=0, atol=within)

        # and would not, were any of it left out
        kept = ours._affine
        spoiled = {"gain twice": Affine(kept.mean, kept.gain**2), "no gain": Affine(kept.mean, kept.gain**0)}
        if kept.mean.any():
            spoiled["no mean"] = Affine(0 * kept.mean, kept.gain)
        for name, affine in spoiled.items():
            if not torch.equal(affine.gain, kept.gain) or affine.mean is not kept.mean:
                ours._affine = affine
                assert (ours.decode(latents)[:, :, frames] - theirs).abs().max() > 3 * LEVEL, name


def wan_first(vae: Any, picture: Tensor) -> Tensor:
    """The first frame of a video as Wan 2.2 5B encodes it."""
    own = SimpleNamespace(
        vae=vae, vae_scale_factor_temporal=4, vae_scale_factor_spatial=4, config=SimpleNamespace(expand_timesteps=True)
    )
    size = {"height": picture.shape[-2], "width": picture.shape[-1], "num_frames": 1}
    asked = {"num_channels_latents": 4, "dtype": torch.float32, **size}
    return diffusers.WanImageToVideoPipeline.prepare_latents(own, picture, 1, **asked)[1]


def ltx_first(vae: Any, picture: Tensor) -> Tensor:
    z = vae.encode(picture[:, :, None]).latent_dist.mode()
    return diffusers.LTXPipeline._normalize_latents(z, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)


def hunyuan_first(vae: Any, picture: Tensor) -> Tensor:
    own = SimpleNamespace(
        vae=vae, vae_scale_factor_temporal=4, vae_scale_factor_spatial=8, vae_scaling_factor=vae.config.scaling_factor
    )
    size = {"height": picture.shape[-2], "width": picture.shape[-1], "num_frames": 1}
    asked = {"num_channels_latents": 4, "dtype": torch.float32, **size}
    return diffusers.HunyuanVideoImageToVideoPipeline.prepare_latents(own, picture, 1, **asked)[1]


def cosmos_first(vae: Any, picture: Tensor) -> Tensor:
    settings = SimpleNamespace(config=SimpleNamespace(sigma_data=0.5, sigma_max=80.0))
    own = SimpleNamespace(vae=vae, vae_scale_factor_temporal=4, vae_scale_factor_spatial=4, scheduler=settings)
    size = {"height": picture.shape[-2], "width": picture.shape[-1], "num_frames": 1}
    asked = {"num_channels_latents": 4, "dtype": torch.float32, **size}
    return diffusers.CosmosVideoToWorldPipeline.prepare_latents(own, picture[:, :, None], 1, **asked)[1]


def cogvideox_first(vae: Any, picture: Tensor) -> Tensor:
    """It draws a sample of what the encoder says."""
    net, scheduler = SimpleNamespace(config=SimpleNamespace(patch_size_t=None)), SimpleNamespace(init_noise_sigma=1.0)
    own = SimpleNamespace(
        vae=vae, transformer=net, scheduler=scheduler, vae_scale_factor_temporal=4, vae_scale_factor_spatial=8,
        vae_scaling_factor_image=vae.config.scaling_factor,
    )  # fmt: skip
    size = {"height": picture.shape[-2], "width": picture.shape[-1], "num_frames": 1}
    asked = {"num_channels_latents": 4, "dtype": torch.float32, "generator": torch.Generator().manual_seed(5), **size}
    _, latents = diffusers.CogVideoXImageToVideoPipeline.prepare_latents(own, picture, 1, **asked)
    return latents.transpose(1, 2)


# (case, how a pipeline of it encodes a picture: (autoencoder, (1, 3, h, w)) -> (1, C, 1, H, W), settings of the codec)
ENCODED: list[tuple[str, Callable[[Any, Tensor], Tensor], dict[str, Any]]] = [
    ("wan 2.1", wan_first, {}),
    ("ltx", ltx_first, {}),
    ("hunyuan", hunyuan_first, {}),
    ("cosmos", cosmos_first, {"scale": 0.5}),
    ("cogvideox", cogvideox_first, {"posterior": "sample"}),
]


@pytest.mark.parametrize("case, encoded, settings", ENCODED, ids=[case for case, _, _ in ENCODED])
def test_the_pipeline_encodes_a_picture_as_we_do(
    case: str, encoded: Callable[[Any, Tensor], Tensor], settings: dict[str, Any], tmp_path: Path
) -> None:
    ours = codec(saved(case, tmp_path), **settings)
    picture = clip(case, batch=1)[:, :, 0]
    with torch.no_grad():
        theirs = encoded(ours.model, picture)
        torch.manual_seed(5)
        torch.testing.assert_close(ours.encode(picture[:, :, None]), theirs, rtol=1e-5, atol=1e-5)
        ours._affine = Affine(ours._affine.mean, ours._affine.gain**2)
        assert (ours.encode(picture[:, :, None]) - theirs).abs().max() > 0.01
