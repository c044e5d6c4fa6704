"""What each class of diffusers' pipelines does by itself, in our words. docs/pipelines.md has the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from dit.foreign import shown

TakesGiven = Literal["never", "may", "always"]


class Guided(NamedTuple):
    """How a scale guides: the scale of classifier-free guidance, and signals for the network."""

    scale: float
    signals: dict[str, Any]


def classifier_free(scale: float) -> Guided:
    """`uncond + scale (cond - uncond)`; up to 1 the conditioned network alone."""
    return Guided(max(scale, 1.0), {})


def beyond_conditioned(scale: float) -> Guided:
    """`cond + scale (cond - uncond)` (Cosmos); the class takes scales up to 1 for none."""
    return Guided(scale + 1 if scale > 1 else 1.0, {})


def as_input(scale: float) -> Guided:
    """The network is told the scale, and nothing else guides (HunyuanVideo); in training it is told 1."""
    target = {"_target_": "dit.signals.guidance.GuidanceScale", "_partial_": True}
    return Guided(1.0, {"guidance": {**target, "scale": scale, "in_training": 1.0}})


@dataclass(frozen=True)
class Recipe:
    """What a class of diffusers does by itself.

    Attributes:
        text: the choice of configs/text; None: it reads no text.
        num_frames, height, width: of a clip unless it is told others, in pixels; None: as large as the network's
            `sample_size` of latents. fps: frames a second.
        num_steps, scale: solver steps and guidance scale unless it is told others.
        guided: what the scale does: entries of the config.
        net: values of the network beside what its config.json says, by their place.
        scaled_by: setting of the scheduler by which latents are multiplied.
        signals: entries of the config; None leaves out one that the network could read.
        of_frames: whether each latent frame has a noise level of its own (diffusion forcing).
        sees: pictures that the network reads through the image encoder of the folder.
        reads: values of configs/text beside those of the choice, by their place.
        given: how it is shown given frames, a choice of configs/given, and what stands in unknown frames. shows: more
            values of that choice.
        conditioning: the choice of configs/conditioning, which frames it was trained to be given: `none`, `i2v`, ...
        variants: setting of model_index.json -> fields of the recipe that differ where it is true.
        of_network: what else follows from the network's config.json and the autoencoder's.
        negative: the module of diffusers (below `pipelines`) that holds its own negative prompt; None: it has none.
    """

    text: str | None
    num_frames: int
    height: int | None
    width: int | None
    fps: float
    num_steps: int
    scale: float
    guided: Callable[[float], Guided] = classifier_free
    net: Mapping[str, Any] = field(default_factory=dict)
    scaled_by: str | None = None
    signals: Mapping[str, Any] = field(default_factory=dict)
    of_frames: bool = False
    sees: Literal["first", "first_and_last"] | None = None
    reads: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, str] = ("held", "nearest")
    shows: Mapping[str, Any] = field(default_factory=dict)
    conditioning: str = "none"
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    of_network: Callable[[Recipe, Mapping[str, Any], Mapping[str, Any]], Recipe] = lambda recipe, net, vae: recipe
    negative: str | None = None

    def of_index(self, index: Mapping[str, Any]) -> Recipe:
        """The recipe for a folder with this model_index.json."""
        changed = [changes for setting, changes in self.variants.items() if index.get(setting) is True]
        return replace(self, **{name: value for changes in changed for name, value in changes.items()})

    @property
    def takes_given(self) -> TakesGiven:
        """Whether a sample may, or must, begin with given frames."""
        if self.conditioning == "none":
            return "may" if self.of_frames else "never"
        return "may" if self.conditioning == "t2v_i2v" else "always"


def wan_image(recipe: Recipe, net: Mapping[str, Any], vae: Mapping[str, Any]) -> Recipe:
    """Of Wan 2.1 the network reads the picture through CLIP too; FLF2V's has positions for the tokens of two."""
    reads = net["text"].get("image")
    if reads is None:
        return recipe
    if reads["positions"] is None:
        return replace(recipe, sees="first")
    return replace(recipe, sees="first_and_last", conditioning="first_last")


def cogvideox(recipe: Recipe, net: Mapping[str, Any], vae: Mapping[str, Any]) -> Recipe:
    """CogVideoX 1.5 makes longer and larger clips."""
    if net["patch"][0] == 1:
        return recipe
    return replace(recipe, num_frames=81, height=768, width=1360, fps=16.0)


def cogvideox_image(recipe: Recipe, net: Mapping[str, Any], vae: Mapping[str, Any]) -> Recipe:
    """1.5 is told a number, and was trained with the factor of the image's latents the wrong way round."""
    if net["vectors"].get("ofs") is not None:
        ofs = {"_target_": "dit.signals.ofs.Ofs", "_partial_": True, "value": 2.0}
        recipe = replace(recipe, signals={**recipe.signals, "ofs": ofs})
    if vae.get("invert_scale_latents"):
        factor: Any = vae.get("scaling_factor")
        if type(factor) not in (int, float) or not factor > 0:
            raise ValueError(f"scaling_factor={shown(factor)} of the autoencoder must be a number above 0")
        recipe = replace(recipe, shows={"scale": factor**-2})
    return cogvideox(recipe, net, vae)


def hunyuan_video_image(recipe: Recipe, net: Mapping[str, Any], vae: Mapping[str, Any]) -> Recipe:
    """The image takes the place of the first latent frame; in the first release it was a channel beside all of them,
    and nobody told the network a guidance scale."""
    if not net["concat_channels"]:
        recipe = replace(recipe, reads={"parts.tokens.every": 4})
    else:
        recipe = replace(recipe, given=("beside", "left_out"), shows={**recipe.shows, "cut": 1})
    is_told = net["vectors"].get("guidance") is not None
    return recipe if is_told else replace(recipe, guided=classifier_free)


# The same weights make videos of a text, or of its first frame too.
LTX = Recipe("ltx", 161, 512, 704, 25.0, 50, 3.0, net={"position.first": "stride"}, conditioning="t2v_i2v")
# With `expand_timesteps` (Wan 2.2 5B) given frames stand in the clip, and the same weights make videos of a text.
WAN = Recipe("wan", 81, 480, 832, 16.0, 50, 5.0)
WAN_5B: Mapping[str, Any] = {"given": ("held", "left_out"), "fps": 24.0}
FORCING = Recipe(
    "wan",
    97,
    544,
    960,
    24.0,
    50,
    6.0,
    of_frames=True,
    given=("held_afresh", "nearest"),
    conditioning="t2v_i2v",
)
COSMOS = Recipe(
    "cosmos",
    121,
    704,
    1280,
    30.0,
    36,
    7.0,
    beyond_conditioned,
    scaled_by="sigma_data",
    negative="cosmos/pipeline_cosmos_text2world.py",
)
# Of the classes' `__call__` in diffusers 0.42.1; frame rates are those of their examples.
PIPELINES = {
    "WanPipeline": replace(WAN, variants={"expand_timesteps": {**WAN_5B, "conditioning": "t2v_i2v"}}),
    "WanImageToVideoPipeline": replace(
        WAN,
        given=("beside", "grey"),
        conditioning="i2v",
        variants={"expand_timesteps": WAN_5B},
        of_network=wan_image,
    ),
    "SkyReelsV2Pipeline": Recipe("wan", 97, 544, 960, 24.0, 50, 6.0),
    "SkyReelsV2ImageToVideoPipeline": Recipe(
        "wan", 97, 544, 960, 24.0, 50, 5.0, given=("beside", "grey"), conditioning="i2v", of_network=wan_image
    ),
    "LTXPipeline": LTX,
    "LTXImageToVideoPipeline": replace(LTX, given=("held", "left_out")),
    "LTXConditionPipeline": replace(
        LTX,
        net={},
        reads={"parts.tokens.length": 256, "parts.tokens.padding": "hidden"},
        given=("held", "left_out"),
        shows={"fresh": 0.15},
    ),
    "CogVideoXPipeline": Recipe("cogvideox", 49, 480, 720, 8.0, 50, 6.0, of_network=cogvideox),
    "CogVideoXVideoToVideoPipeline": Recipe("cogvideox", 49, 480, 720, 8.0, 50, 6.0, of_network=cogvideox),
    "CogVideoXImageToVideoPipeline": Recipe(
        "cogvideox",
        49,
        480,
        720,
        8.0,
        50,
        6.0,
        given=("beside", "left_out"),
        conditioning="i2v",
        of_network=cogvideox_image,
    ),
    "HunyuanVideoPipeline": Recipe("hunyuan_video", 129, 720, 1280, 24.0, 50, 6.0, as_input),
    "HunyuanVideoImageToVideoPipeline": Recipe(
        "hunyuan_video_i2v",
        129,
        720,
        1280,
        24.0,
        50,
        1.0,
        as_input,
        given=("held", "left_out"),
        shows={"in_start": 0.001},
        conditioning="i2v",
        of_network=hunyuan_video_image,
    ),
    "MochiPipeline": Recipe("mochi", 19, 480, 848, 30.0, 64, 4.5),
    "AllegroPipeline": Recipe("allegro", 88, 720, 1280, 15.0, 100, 7.5),
    "CosmosTextToWorldPipeline": COSMOS,
    "CosmosVideoToWorldPipeline": replace(
        COSMOS,
        given=("held_afresh", "nearest"),
        shows={"noise": 0.001},
        conditioning="i2v",
        negative="cosmos/pipeline_cosmos_video2world.py",
    ),
    "Cosmos2VideoToWorldPipeline": Recipe(
        "cosmos",
        93,
        704,
        1280,
        16.0,
        35,
        7.0,
        beyond_conditioned,
        given=("held_at_level", "nearest"),
        shows={"level": 0.0001 / 1.0001},
        conditioning="i2v",
        negative="cosmos/pipeline_cosmos2_video2world.py",
    ),
    "Cosmos2TextToImagePipeline": Recipe(
        "cosmos",
        1,
        768,
        1360,
        16.0,
        35,
        7.0,
        beyond_conditioned,
        negative="cosmos/pipeline_cosmos2_text2image.py",
    ),
    # It says no frame rate to the network, whose frames are then one apart.
    "Cosmos2_5_PredictBasePipeline": Recipe(
        "cosmos25",
        93,
        704,
        1280,
        16.0,
        36,
        7.0,
        beyond_conditioned,
        signals={"fps": None},
        given=("held_at_level", "nearest"),
        shows={"level": 0.0001},
        conditioning="t2v_i2v",
        negative="cosmos/pipeline_cosmos2_5_predict.py",
    ),
    "LattePipeline": Recipe("latte", 16, 512, 512, 8.0, 50, 7.5),
    "DiTPipeline": Recipe(None, 1, None, None, 1.0, 50, 4.0),
    **{
        f"SkyReelsV2DiffusionForcing{kind}Pipeline": replace(FORCING, scale=scale)
        for kind, scale in (("", 6.0), ("ImageToVideo", 5.0), ("VideoToVideo", 6.0))
    },
}
