"""What diffusers' own parts say of a training step of a published family: the loss of its public trainer, from the
pipeline's autoencoder, text encoders, network and scheduler (docs/pipelines.md names the trainers)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler
from einops import rearrange
from PIL import Image
from torch import Tensor

from dit.codec.families import covering
from dit.diffusion.levels import Levels
from dit.encoders import to_bytes
from scripts.twins.pipelines import TWINS, Asked, Twin, run, unchanged

Net = Callable[[Tensor, Any], Tensor]  # noisy latents (1, C, F, H, W), and another timestep or None -> output
AUGMENTED = torch.tensor(math.exp(-3.0))  # sigma of given frames of Cosmos 1.0: the median of what is drawn
Loss = tuple[Tensor, float]  # the loss, and the noise as what `Family.level` understands


class OneLevel(Levels):
    """Every clip at one level."""

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, batch: int, frames: int, num_tokens: int, generator: Any, device: Any) -> Tensor:
        return torch.full((batch, 1), self.level, device=device)


def calls(
    pipeline: Any, name: str | Twin, noise: Tensor, prompt: str, num_steps: int
) -> list[tuple[Any, dict[str, Any]]]:
    """(network, its arguments) of each step of a sampling from noise (1, C, F, H, W) without guidance."""
    found: list[tuple[Any, dict[str, Any]]] = []
    nets = [pipeline.transformer, getattr(pipeline, "transformer_2", None)]

    def keep(net: Any, args: Any, kwargs: dict[str, Any]) -> None:
        assert not args
        found.append((net, dict(kwargs)))

    hooks = [net.register_forward_pre_hook(keep, with_kwargs=True) for net in nets if net is not None]
    try:
        run(pipeline, name, noise, Asked([prompt], [""], [0], num_steps, 1.0), "latent")
    finally:
        for hook in hooks:
            hook.remove()
    return found


# -- latents of pixels, as the pipelines and trainers scale them


def by_mean_and_std(pipeline: Any, pixels: Tensor) -> Tensor:
    vae = pipeline.vae
    mean, std = (torch.tensor(getattr(vae.config, f"latents_{each}")).view(1, -1, 1, 1, 1) for each in ("mean", "std"))
    return (vae.encode(pixels).latent_dist.mode() - mean) / std


def by_factor(pipeline: Any, pixels: Tensor) -> Tensor:
    return pipeline.vae.encode(pixels).latent_dist.mode() * pipeline.vae.config.scaling_factor


def ltx_latents(pipeline: Any, pixels: Tensor) -> Tensor:
    vae = pipeline.vae
    mean, std = (each.view(1, -1, 1, 1, 1) for each in (vae.latents_mean, vae.latents_std))
    return (vae.encode(pixels).latent_dist.mode() - mean) * vae.config.scaling_factor / std


def frame_by_frame(pipeline: Any, pixels: Tensor) -> Tensor:
    frames = by_factor(pipeline, rearrange(pixels, "b c f h w -> (b f) c h w"))
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(pixels))


def allegro_latents(pipeline: Any, pixels: Tensor) -> Tensor:
    with covering(pipeline.vae, pixels.shape[2:]):
        return by_factor(pipeline, pixels)


def cosmos_latents(pipeline: Any, pixels: Tensor) -> Tensor:
    z, config = pipeline.vae.encode(pixels).latent_dist.mode(), pipeline.vae.config
    each = (torch.tensor(getattr(config, f"latents_{name}")) for name in ("mean", "std"))
    mean, std = (one.view(1, config.latent_channels, -1, 1, 1)[:, :, : z.shape[2]] for one in each)
    return (z - mean) * pipeline.scheduler.config.sigma_data / std


def with_a_copy(pipeline: Any, pixels: Tensor) -> Tensor:
    """CogVideoX 1.5: a copy of the first latent frame in front, so that they are taken by two."""
    z = by_factor(pipeline, pixels)
    return torch.cat([z[:, :, :1], z], 2)


# -- losses


def flow(scheduler: Any, net: Net, x0: Tensor, eps: Tensor, step: int, given: int = 0) -> Loss:
    """Velocity from data to noise (Wan, SkyReels-V2, LTX-Video, HunyuanVideo). given: latent frames that have no loss,
    as Lightricks/LTX-Video-Trainer masks them."""
    sigma = scheduler.sigmas[step]
    out = net((1 - sigma) * x0 + sigma * eps, None)
    return (out - (eps - x0))[:, :, given:].square().mean(), float(sigma)


def mochi(scheduler: Any, net: Net, x0: Tensor, eps: Tensor, step: int) -> Loss:
    """The network is told how clean a clip is, and points from noise to data."""
    clean = scheduler.sigmas[step]
    out = net(clean * x0 + (1 - clean) * eps, None)
    return (out - (x0 - eps)).square().mean(), float(1 - clean)


def cogvideox(scheduler: Any, net: Net, x0: Tensor, eps: Tensor, step: int) -> Loss:
    """v-prediction, as an error of x0 that is weighted by 1 / (1 - alpha_bar)."""
    timestep = scheduler.timesteps[step]
    x_t = scheduler.add_noise(x0, eps, timestep[None])
    believed = scheduler.get_velocity(net(x_t, None), x_t, timestep[None])
    weight = 1 / (1 - scheduler.alphas_cumprod[timestep])
    return (weight * (believed - x0).square()).mean(), float(timestep)


def noise(scheduler: Any, net: Net, x0: Tensor, eps: Tensor, step: int) -> Loss:
    """DDPM's noise prediction; a variance that is learned too is not looked at (Allegro, Latte)."""
    config = scheduler.config
    trainer = DDPMScheduler(beta_start=config.beta_start, beta_end=config.beta_end, beta_schedule=config.beta_schedule)
    timestep = scheduler.timesteps[step].long()
    out = net(trainer.add_noise(x0, eps, timestep[None]), timestep)[:, : x0.shape[1]]
    return (out - eps).square().mean(), float(timestep)


def edm(scheduler: Any, net: Net, x0: Tensor, eps: Tensor, step: int, given: int = 0) -> Loss:
    """EDM: an error of x0, weighted by (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Cosmos 1.0).

    given: latent frames that have noise of `AUGMENTED` for the network, scaled as at that sigma, and no loss (class
    `DiffusionV2WModel` of nvidia-cosmos/cosmos-predict1, `augment_conditional_latent_frames`).
    """
    sigma, data = scheduler.sigmas[step], scheduler.config.sigma_data
    x_t = x0 + sigma * eps
    fed, own = scheduler.precondition_inputs(x_t, sigma), scheduler.precondition_inputs(x0 + AUGMENTED * eps, AUGMENTED)
    out = net(torch.cat([own[:, :, :given], fed[:, :, given:]], 2), None)
    believed = scheduler.precondition_outputs(x_t, out, sigma)
    weight = (sigma**2 + data**2) / (sigma * data) ** 2
    return (weight * (believed - x0)[:, :, given:].square()).mean(), float(sigma)


def as_it_is(number: float, path: Any) -> float:
    return number


def of_timestep(number: float, path: Any) -> float:
    return (number + 1) / path.timesteps


def of_sigma(number: float, path: Any) -> float:
    return float(path.t_from_log_snr(-2 * torch.tensor(number, dtype=torch.float64).log()))


@dataclass(frozen=True)
class Family:
    """clean: latents (B, C, F, H, W) of pixels. loss: of one clip, at a step of its sampler. level: ours, of what the
    loss says of the noise and our path."""

    clean: Callable[[Any, Tensor], Tensor]
    loss: Callable[[Any, Net, Tensor, Tensor, int], Loss]
    level: Callable[[float, Any], float] = as_it_is


FAMILIES: Mapping[str, Family] = {
    "wan": Family(by_mean_and_std, flow),
    "wan22": Family(by_mean_and_std, flow),
    "skyreels_v2": Family(by_mean_and_std, flow),
    "ltx": Family(ltx_latents, flow),
    "cogvideox": Family(by_factor, cogvideox, of_timestep),
    "hunyuan_video": Family(by_factor, flow),
    "mochi": Family(by_mean_and_std, mochi),
    "allegro": Family(allegro_latents, noise, of_timestep),
    "cosmos": Family(cosmos_latents, edm, of_sigma),
    "latte": Family(frame_by_frame, noise, of_timestep),
}


# As image-to-video models. Given frames that stand in the clip are clean there, which the pipeline's own call shows.
OF_IMAGES: Mapping[str, Family] = {
    "ltx_image": Family(ltx_latents, partial(flow, given=1)),
    "cogvideox_image": Family(by_factor, cogvideox, of_timestep),
    "cogvideox15_image": Family(with_a_copy, cogvideox, of_timestep),
    "hunyuan_video_image": Family(by_factor, partial(flow, given=1)),
    "hunyuan_video_image_beside": Family(by_factor, flow),
    "cosmos_video": Family(cosmos_latents, partial(edm, given=1), of_sigma),
}


@torch.no_grad()
def reference_of_images(
    pipeline: Any, name: str, pixels: Tensor, eps: Tensor, prompts: list[str], num_steps: int, step: int
) -> Loss:
    """Mean loss of clips (B, 3, frames, height, width) whose first frames are given, which are black and white."""
    family, layout = OF_IMAGES[name], TWINS[name].layout
    losses = []
    for clip, own, prompt in zip(pixels.split(1), eps.split(1), prompts, strict=True):
        x0 = family.clean(pipeline, clip)
        sizes, channels = dict(zip("fhw", x0.shape[2:], strict=True)), x0.shape[1]
        frame = Image.fromarray(to_bytes(clip[0, :, 0]).permute(1, 2, 0).numpy())
        asks = {"video": [[frame]]} if name == "cosmos_video" else {"image": frame}
        twin = replace(TWINS[name], asks=asks, patched=unchanged)
        transformer, said = calls(pipeline, twin, torch.zeros_like(x0), prompt, num_steps)[step]
        shown = rearrange(said["hidden_states"], f"{layout} -> b c f h w", **sizes)

        def net(
            x: Tensor, timestep: Any, shown: Tensor = shown, channels: int = channels, transformer: Any = transformer,
            said: Any = said, sizes: Any = sizes,
        ) -> Tensor:  # fmt: skip
            if name in ("ltx_image", "hunyuan_video_image"):
                x = torch.cat([shown[:, :, :1], x[:, :, 1:]], 2)
            x = torch.cat([x, shown[:, channels:]], 1)
            out = transformer(**{**said, "hidden_states": rearrange(x, f"b c f h w -> {layout}")})[0]
            return rearrange(out, f"{layout} -> b c f h w", **sizes)

        loss, number = family.loss(pipeline.scheduler, net, x0, own, step)
        losses.append(loss)
    return torch.stack(losses).mean(), number


@torch.no_grad()
def reference(pipeline: Any, name: str, x0: Tensor, eps: Tensor, prompts: list[str], num_steps: int, step: int) -> Loss:
    """Mean loss of clips, one after another, at a step of the pipeline's sampler in `num_steps`."""
    family, layout = FAMILIES[name], TWINS[name].layout
    sizes = dict(zip("fhw", x0.shape[2:], strict=True))
    losses = []
    for clip, own, prompt in zip(x0.split(1), eps.split(1), prompts, strict=True):
        transformer, said = calls(pipeline, name, torch.zeros_like(clip), prompt, num_steps)[step]

        def net(x: Tensor, timestep: Any, transformer: Any = transformer, said: Any = said) -> Tensor:
            given = {**said, "hidden_states": rearrange(x, f"b c f h w -> {layout}")}
            if timestep is not None:
                given["timestep"] = torch.full_like(said["timestep"], timestep)
            out = transformer(**given)
            return rearrange(out if isinstance(out, Tensor) else out[0], f"{layout} -> b c f h w", **sizes)

        loss, number = family.loss(pipeline.scheduler, net, clip, own, step)
        losses.append(loss)
    return torch.stack(losses).mean(), number
