"""Whole pipelines of diffusers with tiny random parts, saved as folders: what ours are held against."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from einops import rearrange
from torch import Tensor, nn

from dit.diffusion.path import Path as NoisePath
from dit.sampling.conditions import Conditions
from dit.sampling.job import Samples
from dit.sampling.pipeline import Pipeline
from dit.sampling.schedule import Pyramid
from dit.sampling.tasks import Extend, FirstLast, ImageToVideo, LongTextToVideo, Task, VideoToVideo
from scripts.twins import cosmos, forcing, labelled, wan_image
from scripts.twins import image_to_video as i2v
from scripts.twins import text_to_video as t2v
from scripts.twins.exact import exact, exact_with
from scripts.twins.parts import picture


@dataclass(frozen=True)
class Asked:
    """What both are asked for: a sample for each prompt."""

    prompts: Sequence[str]
    negatives: Sequence[str]
    seeds: Sequence[int]
    num_steps: int
    scale: float

    def only(self, index: int) -> Asked:
        return replace(self, **{k: getattr(self, k)[index : index + 1] for k in ("prompts", "negatives", "seeds")})


ASKED = Asked(["a red circle moves left slowly.", "a blue square"], ["blurry, ugly", "ugly"], [3, 8], 5, 4.0)
CLASSES = replace(ASKED, prompts=["207", "3"], negatives=["", ""])


def sampled(pipeline: Any, asked: Asked, asks: Mapping[str, Any], output: str) -> Tensor:
    """What a pipeline of prompts makes of them: latents, or pixels (B, F, 3, H, W) or (B, 3, H, W) in [0, 1]."""
    said = pipeline(prompt=list(asked.prompts), negative_prompt=list(asked.negatives), output_type=output, **asks)
    return said.frames if "frames" in said else said.images  # type: ignore[no-any-return]


def unchanged(pipeline: Any, generators: Sequence[torch.Generator]) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Twin:
    """A pipeline of diffusers in miniature, and how it is asked.

    Attributes:
        build: makes it. shape: (num_frames, height, width) that it is asked for.
        layout: of its latents, in the words of einops. made: of those that it returns, noise_layout: of the noise that
            it begins with, where they have another.
        frames: what it calls the number of frames; None: it makes images, or is given a video.
        alone: whether it is asked prompt by prompt: what it reads of one depends on the others, or it takes no more.
        decodes: whether its codec takes clips of this size as they are.
        whole_greys: whether its guardrail cuts pixels down to whole grey levels.
        scale: what it calls the guidance scale.
        takes_noise: whether it takes the noise that it begins with; if not, it is put in the place of the first that it
            draws.
        sampled: how it is called.
        asked: what it is asked for. asks: more arguments of its call.
        task, loads: what ours is asked for, and more arguments of `Pipeline.from_pretrained`.
        title: what is told of it beside its class.
        patched: what is changed in it while it is called, with the samples' sources of noise.
        left: how noisy it leaves given frames, which ours returns as they were.
        sigmas: those of its scheduler from our path and levels, where its own differ from them in the last digit.
    """

    build: Callable[[], Any]
    shape: tuple[int, int, int]
    layout: str = "b c f h w"
    made: str | None = None
    frames: str | None = "num_frames"
    alone: bool = False
    decodes: bool = True
    whole_greys: bool = False
    scale: str = "guidance_scale"
    takes_noise: bool = True
    noise_layout: str | None = None
    sampled: Callable[[Any, Asked, Mapping[str, Any], str], Tensor] = sampled
    asked: Asked = ASKED
    asks: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None
    loads: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    patched: Callable[[Any, Sequence[torch.Generator]], AbstractContextManager[None]] = unchanged
    left: cosmos.Left | None = None
    sigmas: Callable[[NoisePath, Tensor], Tensor] | None = None


def levels_alone(path: NoisePath, levels: Tensor) -> Tensor:
    return levels


def ratios(path: NoisePath, levels: Tensor) -> Tensor:
    return path.sigma(levels) / path.alpha(levels)


CLIP = [picture(seed, 32, 48) for seed in range(7)]
PREFIX = Extend(CLIP[:5], 5, 1)
STAGGERED = {"causal_block": 2, "schedule": Pyramid(None, group=2, lag=2)}
CHAINED = {"num_frames": 17, "base_num_frames": 9, "overlap_history": 5}
SMALL, LTX = (9, 32, 48), (9, 32, 64)
WIDE = (9, 32, 64)
WIDE_PICTURE = i2v.pictures(1, *WIDE[1:])[0]
PICTURES, LTX_PICTURES = i2v.pictures(2, *SMALL[1:]), i2v.pictures(2, *LTX[1:])


FILMS = [i2v.pictures(9, *SMALL[1:], seed) for seed in (1, 2)]
CONDITIONS = i2v.ltx_conditions(*i2v.LTX_CONDITION[1:])


TWINS: dict[str, Twin] = {
    "wan": Twin(t2v.wan, (9, 32, 48)),
    "wan22": Twin(t2v.wan22, (9, 32, 48), title="two experts"),
    "wan_image": Twin(wan_image.image, SMALL, asks={"image": PICTURES[0]}, task=ImageToVideo(PICTURES[0])),
    "wan_first_last": Twin(
        wan_image.first_last, SMALL, asks=dict(zip(("image", "last_image"), PICTURES, strict=True)),
        task=FirstLast(*PICTURES), title="FLF2V",
    ),
    "wan22_image": Twin(
        wan_image.two_experts, SMALL, asks={"image": PICTURES[0]}, task=ImageToVideo(PICTURES[0]), title="two experts",
    ),
    "wan22_first_last": Twin(
        wan_image.two_experts, SMALL, asks=dict(zip(("image", "last_image"), PICTURES, strict=True)),
        task=FirstLast(*PICTURES), title="two experts, first and last frame",
    ),
    "skyreels_v2_image": Twin(
        wan_image.skyreels_v2, SMALL, asks={"image": PICTURES[0]}, task=ImageToVideo(PICTURES[0])
    ),
    "wan22_5b": Twin(wan_image.expanded_text, WIDE, title="`expand_timesteps`"),
    "wan22_5b_image": Twin(
        wan_image.expanded_image, WIDE, asks={"image": WIDE_PICTURE}, task=ImageToVideo(WIDE_PICTURE),
        title="`expand_timesteps`",
    ),
    "skyreels_v2": Twin(t2v.skyreels_v2, (9, 32, 48)),
    "skyreels_v2_forcing": Twin(forcing.skyreels_v2, (9, 32, 48), alone=True, takes_noise=False),
    "skyreels_v2_staggered": Twin(
        forcing.skyreels_v2, (21, 32, 48), alone=True, takes_noise=False, asks={"ar_step": 2, "causal_block_size": 2},
        loads=STAGGERED, title="staggered",
    ),
    "skyreels_v2_chained": Twin(
        forcing.skyreels_v2, (9, 32, 48), alone=True, takes_noise=False, asks=CHAINED,
        task=LongTextToVideo(5, 3, carry_latents=True), title="chained",
    ),
    "skyreels_v2_noisy_chain": Twin(
        forcing.skyreels_v2, (9, 32, 48), alone=True, takes_noise=False, asks={**CHAINED, "addnoise_condition": 20},
        task=LongTextToVideo(5, 3, carry_latents=True), loads={"context_level": 0.02}, patched=forcing.drawing_of,
        title="chained, with noise",
    ),
    "skyreels_v2_forcing_image": Twin(
        partial(forcing.skyreels_v2, "ImageToVideo"), (9, 32, 48), alone=True, takes_noise=False,
        asks={"image": CLIP[0]}, task=ImageToVideo(CLIP[0]),
    ),
    "skyreels_v2_forcing_video": Twin(
        partial(forcing.skyreels_v2, "VideoToVideo"), (9, 32, 48), alone=True, takes_noise=False,
        asks={**CHAINED, "video": CLIP}, task=Extend(CLIP, 5, 3, carry_latents=True), title="chained",
    ),
    "ltx": Twin(t2v.ltx, (9, 32, 64), "b (f h w) c", sigmas=levels_alone),
    "cogvideox": Twin(t2v.cogvideox, (9, 32, 48), "b f c h w"),
    "hunyuan_video": Twin(t2v.hunyuan_video, (9, 32, 48), sigmas=levels_alone),
    "mochi": Twin(t2v.mochi, (7, 16, 32)),
    "allegro": Twin(t2v.allegro, (8, 32, 48), decodes=False, sigmas=ratios),
    "cosmos": Twin(cosmos.predict1, (9, 32, 48), whole_greys=True, sigmas=ratios),
    "cosmos_video": Twin(
        cosmos.predict1_video, (9, 32, 48), whole_greys=True, sigmas=ratios, asks={"video": [CLIP[:5]] * 2},
        task=PREFIX, patched=cosmos.drawing_once_a_step, left=cosmos.LEFT,
    ),
    "cosmos2_video": Twin(
        cosmos.predict2_video, (9, 32, 48), whole_greys=True, asks={"video": [CLIP[:5]] * 2}, task=PREFIX,
        left=cosmos.LEFT,
    ),
    "cosmos2_image": Twin(cosmos.predict2_image, (1, 32, 48), made="b c (f h) w", frames=None, whole_greys=True),
    "cosmos25": Twin(cosmos.predict25, (9, 32, 48)),
    "cosmos25_video": Twin(
        cosmos.predict25, (9, 32, 48), alone=True, asks={"video": CLIP, "num_latent_conditional_frames": 2},
        task=Extend(CLIP, 5, 1), left=cosmos.LEFT25, title="from a video",
    ),
    "ltx_image": Twin(
        i2v.ltx_image, LTX, "b (f h w) c", takes_noise=False, asks={"image": LTX_PICTURES},
        task=ImageToVideo(LTX_PICTURES), noise_layout="b c f h w", sigmas=levels_alone,
    ),
    "ltx_condition": Twin(
        i2v.ltx_condition, i2v.LTX_CONDITION, takes_noise=False, sampled=i2v.ltx_conditioned,
        asks={"conditions": CONDITIONS}, task=Conditions(CONDITIONS), sigmas=levels_alone,
    ),
    "cogvideox_video": Twin(
        i2v.cogvideox_video, SMALL, "b f c h w", frames=None, takes_noise=False, asks={"video": FILMS, "strength": 0.6},
        task=VideoToVideo(FILMS, 0.6),
    ),
    "cogvideox15": Twin(i2v.cogvideox15, SMALL, "b f c h w", title="1.5"),
    "cogvideox_image": Twin(
        i2v.cogvideox_image, SMALL, "b f c h w", asks={"image": PICTURES}, task=ImageToVideo(PICTURES)
    ),
    "cogvideox15_image": Twin(
        i2v.cogvideox15_image, SMALL, "b f c h w", asks={"image": PICTURES}, task=ImageToVideo(PICTURES), title="1.5"
    ),
    "hunyuan_video_image": Twin(
        i2v.hunyuan_video_image, SMALL, asks={"image": PICTURES}, task=ImageToVideo(PICTURES), title="token_replace",
        sigmas=levels_alone,
    ),
    "hunyuan_video_image_beside": Twin(
        i2v.hunyuan_video_image_beside, SMALL, asks={"image": PICTURES[0]}, task=ImageToVideo(PICTURES[0]),
        scale="true_cfg_scale", alone=True, title="latent_concat", sigmas=levels_alone,
    ),
    "latte": Twin(t2v.latte, (4, 64, 64), frames="video_length", alone=True),
    "dit": Twin(
        labelled.dit, (1, 64, 64), "b c (f h) w", frames=None, takes_noise=False, sampled=labelled.sampled,
        asked=CLASSES,
    ),
}  # fmt: skip


def twin_of(name: str | Twin) -> Twin:
    """That of a name; one is its own."""
    return name if isinstance(name, Twin) else TWINS[name]


def saved(name: str, folder: Path) -> Any:
    """A pipeline of diffusers, and its folder."""
    made = TWINS[name].build()
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(folder)
    return made


def saved_in_float64(name: str, folder: Path) -> Any:
    """The same in float64. Tables of its scheduler are of float32 all the same: a model was published with them."""
    with exact():
        made = TWINS[name].build()
        for part in made.components.values():
            if isinstance(part, nn.Module):
                part.double()
    made.scheduler = type(made.scheduler).from_config(made.scheduler.config)
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(folder)
    return made


def run_in_float64(theirs: Any, name: str, folder: Path, asked: Asked) -> tuple[Tensor, Tensor]:
    """Latents of ours and of diffusers' pipeline, both in float64 throughout: what they round to float32, they do not
    here. Prompts and pictures are encoded so, too, by transformers and diffusers in either."""
    pipeline = ours(name, folder, asked, parts={"codec": {"dtype": "float64"}})
    noise = noise_for(pipeline, len(asked.seeds)).double()
    codec: Any = pipeline.codec
    codec.encode = exact()(partial(_of_doubles, codec.encode))
    job = pipeline.job(asked.prompts, asked.seeds, TWINS[name].task, asked.negatives)
    with exact():
        for signal in pipeline.signals.values():
            signal.ahead(*job.asked(range(len(job.batches))), lambda: nullcontext(torch.device("cpu")))
    mine, sigmas = make(pipeline, name, asked, noise).latents, None
    if (of_levels := TWINS[name].sigmas) is not None:
        nothing = torch.zeros(noise.shape[2], dtype=torch.bool)
        sigmas = of_levels(pipeline.path, pipeline.noise_levels(pipeline.canvas(), nothing))
    with exact_with(theirs.scheduler, sigmas):
        return mine, run(theirs, name, noise, asked, "latent")


def _of_doubles(encode: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    return encode(pixels.double())


def run(pipeline: Any, name: str | Twin, noise: Tensor, asked: Asked, output: str) -> Tensor:
    """What diffusers' pipeline makes of noise (B, C, F, H, W): `latent` (B, C, F, H, W), or `pt` (B, 3, F, H, W).

    What is drawn later is drawn as ours draws it: from a sample's own seed, behind the noise that it begins with.
    """
    twin = twin_of(name)
    if twin.alone and len(noise) > 1:
        each = (run(pipeline, twin, one, asked.only(i), output) for i, one in enumerate(noise.split(1)))
        return torch.cat(list(each))
    generators = [torch.Generator().manual_seed(seed) for seed in asked.seeds]
    for generator in generators:
        torch.randn(noise.shape[1:], generator=generator)
    asks: dict[str, Any] = {"num_inference_steps": asked.num_steps, twin.scale: asked.scale}
    asks["generator"] = generators
    if twin.sampled is sampled:
        frames, asks["height"], asks["width"] = twin.shape
        asks |= {twin.frames: frames} if twin.frames else {}
    first = rearrange(noise.clone(), f"b c f h w -> {twin.noise_layout or twin.layout}")
    if twin.takes_noise:
        asks["latents"] = first
    draws = nullcontext() if twin.takes_noise else beginning_with(pipeline, first)
    with most_likely_latents(), twin.patched(pipeline, generators), draws:
        made = twin.sampled(pipeline, asked, asks | dict(twin.asks), output)
    if output != "latent":
        return (made.transpose(1, 2) if made.ndim == 5 else made.unsqueeze(2)) * 2 - 1
    layout, sizes = twin.made or twin.layout, dict(zip("fhw", noise.shape[2:], strict=True))
    made = rearrange(made, f"{layout} -> b c f h w", **(sizes if "(" in layout else {}))
    return made if twin.left is None else twin.left.clean(made, noise)


@contextmanager
def most_likely_latents() -> Iterator[None]:
    """Within, what autoencoders of diffusers draw of given pictures is what ours takes: the mode."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Distribution

    with patch.object(Distribution, "sample", lambda self, generator=None: self.mode()):
        yield


@contextmanager
def beginning_with(pipeline: Any, noise: Tensor) -> Iterator[None]:
    """Within, the first noise that a pipeline draws is this."""
    module = sys.modules[type(pipeline).__module__]
    draw, waiting = module.randn_tensor, [noise]

    def drawn(shape: Any, *arguments: Any, **more: Any) -> Tensor:
        if not waiting:
            return draw(shape, *arguments, **more)  # type: ignore[no-any-return]
        assert tuple(shape) == tuple(noise.shape)
        return waiting.pop()

    with patch.object(module, "randn_tensor", drawn):
        yield
    assert not waiting, "it has drawn nothing"


def ours(name: str | Twin, folder: str | Path, asked: Asked, device: str = "cpu", **changes: Any) -> Pipeline:
    """Our pipeline of a saved one, set to what is asked, with further arguments of `Pipeline.from_pretrained`."""
    frames, height, width = twin_of(name).shape
    return Pipeline.from_pretrained(
        folder, device, num_frames=frames, height=height, width=width, num_steps=asked.num_steps,
        guidance_scale=asked.scale, **{**twin_of(name).loads, **changes},
    )  # fmt: skip


def make(pipeline: Pipeline, name: str | Twin, asked: Asked, noise: Tensor) -> Samples:
    """What our pipeline makes of the same."""
    return pipeline(asked.prompts, asked.seeds, twin_of(name).task, noise=noise, negative_prompt=asked.negatives)


def decoded(pipeline: Pipeline, name: str | Twin, made: Samples, noise: Tensor) -> Tensor:
    """Pixels of our samples; where theirs decodes noise that it leaves in given frames, of ours with that noise."""
    left, codec = twin_of(name).left, pipeline.codec
    if left is None:
        return made.pixels
    with torch.no_grad():
        return codec.decode(left.noisy(made.latents, noise)).clamp(-1, 1)  # type: ignore[no-any-return,operator]


def grey_levels_apart(
    pipeline: Pipeline, theirs: Any, name: str | Twin, made: Samples, noise: Tensor, asked: Asked
) -> float:
    """The largest difference of their decoded pixels from those of our samples. A class of diffusers that goes on from
    a video hands back the video's own frames before the new ones: those are left out."""
    mine = decoded(pipeline, name, made, noise)
    pixels = run(theirs, name, noise, asked, "pt").float().cpu()[:, :, -mine.shape[2] :]
    return float((mine - pixels).abs().max()) * 127.5


def noise_for(pipeline: Pipeline, count: int) -> Tensor:
    """Noise that `count` samples begin with, (count, C, F, H, W)."""
    codec: Any = pipeline.codec
    shape = (count, codec.channels, *pipeline.canvas().latent_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def relative(mine: Tensor, other: Tensor) -> float:
    """The largest difference, in the largest value of `other`."""
    return float((mine - other).abs().max() / other.abs().max())
