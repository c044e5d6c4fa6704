"""Whether clips, codec, network and text encoder of a run fit one another, with what would make them fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from dit.codec.base import Codec
from dit.codec.pixel import PixelCodec
from dit.codec.vae.network import Autoencoder
from dit.config.kinds import TARGET, resolve
from dit.diffusion.given import KEYS
from dit.diffusion.loss import Objective
from dit.engine.callbacks.reconstruction import Reconstruction
from dit.engine.callbacks.validation import Validation
from dit.engine.callbacks.world import WorldMeasures
from dit.engine.module import VideoDiffusion
from dit.net.backbone import Backbone
from dit.net.text import reads_text
from dit.recipes.base import Recipe
from dit.text.base import TextEncoder

AXES = ("num_frames", "height", "width")
OF_NOISE = (
    "objective", "path", "prediction", "levels", "weighting", "conditioning", "space", "sampling"
)  # fmt: skip


def recipe_class(config: Mapping[str, Any]) -> type[Recipe]:
    """The recipe of a config. Of a function that makes one nothing is known: `Recipe` itself."""
    named = resolve(str(config["recipe"][TARGET]))
    return named if isinstance(named, type) else Recipe


def check_recipe(config: Mapping[str, Any], codec: Codec, net: nn.Module) -> None:
    """Raises ValueError where the parts of a run are not of one kind: those of a network that denoises, or those of an
    autoencoder, which knows neither noise nor samples."""
    recipe, given = recipe_class(config), {key: config.get(key) for key in (*OF_NOISE, "given", "preview")}
    name, trains = recipe.__name__, "an autoencoder: experiment=vae_world has all that it needs"
    kinds = {each: resolve(str(node[TARGET])) for each, node in config["callbacks"].items() if node is not None}
    wrong = (Reconstruction,) if recipe.denoises else (Validation, WorldMeasures)
    for callback, kind in kinds.items():
        if kind in wrong:
            right = "callbacks=default" if recipe.denoises else "callbacks=autoencoder"
            raise ValueError(f"callbacks.{callback} measures another kind of network than {name} trains; {right}")
    if recipe.denoises:
        if isinstance(net, Autoencoder):
            raise ValueError(f"recipe {name} trains a network that denoises, and net is an autoencoder; choose another")
        for key in OF_NOISE:
            if given[key] is None:
                raise ValueError(f"{key} is null, and recipe {name} needs it: choose one, or recipe=autoencoding")
        return
    if not isinstance(net, Autoencoder):
        raise ValueError(f"net is a {type(net).__name__}, and recipe {name} trains {trains}")
    if not isinstance(codec, PixelCodec):
        raise ValueError(f"codec is a {type(codec).__name__}, and an autoencoder is trained on pixels: codec=pixel")
    for key, value in given.items():
        if value is not None:
            raise ValueError(f"{key} is of no use to recipe {name}, which trains {trains}; {key}=null")


def check_sizes(net: Backbone | Autoencoder, codec: Codec, num_frames: int, height: int, width: int) -> None:
    """Raises ValueError for clips that codec or network cannot take, with the nearest that both can."""
    shape = codec.latent_shape(num_frames, height, width)
    try:
        net.num_tokens(*shape)
    except ValueError as error:
        for axis, (name, size, patch) in enumerate(zip(AXES, shape, net.patch, strict=True)):
            if size % patch and (near := list(_fitting(codec, (num_frames, height, width), axis, size, patch))):
                clips = " or ".join(f"data.{name}={each}" for each in near)
                raise ValueError(f"{error}. In pixels: {clips}") from None
        raise


class Sizes:
    """What codec and network make of clips: for data whose clips have several shapes (`data.batch.Sizes`)."""

    def __init__(self, net: Backbone | Autoencoder, codec: Codec) -> None:
        self.net = net
        self.codec = codec

    def tokens(self, num_frames: int, height: int, width: int) -> int:
        """Tokens of a clip. Raises ValueError, with the nearest sizes, where codec or network cannot take it."""
        check_sizes(self.net, self.codec, num_frames, height, width)
        return self.net.num_tokens(*self.codec.latent_shape(num_frames, height, width))

    def nearest(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """The nearest clip that both can take, each size for itself; of two at equal distance the smaller one.
        Where none can be taken along an axis, the size that was asked for."""
        sizes = [self._nearest(axis, size) for axis, size in enumerate((num_frames, height, width))]
        return sizes[0], sizes[1], sizes[2]

    def _nearest(self, axis: int, size: int) -> int:
        codec, patch = self.codec, self.net.patch[axis]
        unit, beside = codec.stride[axis] * patch, 2 + codec.group + codec.lead
        near = []
        for patches in range(max(1, size // unit - beside), size // unit + beside + 2):
            latents = (patches * patch if each == axis else 1 for each in range(3))
            pixels = codec.compression.pixel_shape(*latents)[axis]
            if self._takes(axis, pixels):
                near.append(pixels)
        return min(near, key=lambda pixels: (abs(pixels - size), pixels), default=size)

    def _takes(self, axis: int, pixels: int) -> bool:
        """Whether the codec takes clips of `pixels` along an axis."""
        codec = self.codec
        smallest = (1 if codec.causal else codec.group * codec.stride[0], *codec.stride[1:])
        try:
            codec.latent_shape(*(pixels if each == axis else smallest[each] for each in range(3)))
        except ValueError:
            return False
        return True


def check_clips(net: Backbone | Autoencoder, codec: Codec, data: Mapping[str, Any]) -> None:
    """`check_sizes` of the clips of a run's `data`, and of images that are shown for another number of frames."""
    check_sizes(net, codec, data["num_frames"], data["height"], data["width"])
    if (frames := data.get("image_frames")) is not None:
        try:
            check_sizes(net, codec, frames, data["height"], data["width"])
        except ValueError as error:
            raise ValueError(f"data.image_frames: {error}") from None


def _fitting(codec: Codec, clip: tuple[int, int, int], axis: int, size: int, patch: int) -> Iterator[int]:
    """The sizes of a clip along an axis that give the nearest multiples of a patch beside `size` latents."""
    for latents in (size // patch * patch, (size // patch + 1) * patch):
        pixels = codec.compression.pixel_shape(*(latents if each == axis else 1 for each in range(3)))[axis]
        try:
            codec.latent_shape(*(pixels if each == axis else length for each, length in enumerate(clip)))
        except ValueError:
            continue  # none, or not in whole groups
        yield pixels


def check_packed(module: VideoDiffusion, data: Any) -> None:
    """Raises ValueError for a run whose batches would be packed, clips of several shapes in one sequence, where recipe
    or network take clips of one shape alone."""
    if data.shapes is None or not data.shapes.packed:
        return
    instead = "data/shapes=buckets has batches of one shape"
    if not module.recipe.takes_packed:
        name = type(module.recipe).__name__
        raise ValueError(f"recipe {name} takes no packed clips (data/shapes=packed): {instead}, or recipe=denoising")
    net: Any = module.net
    if not hasattr(net, "of_groups"):
        raise ValueError(f"{type(net).__name__} takes no packed clips (data/shapes=packed): {instead}")
    by_place = {"coordinates", *KEYS, *net.concat_channels} & {*net.reads.required, *net.reads.optional}
    made = {key for signal in module.signals.values() for key in signal.entries}
    # Entries with a value for each latent or token differ in size from clip to clip. Of these only given frames have a
    # packed form.
    if wrong := sorted((by_place & made) | (by_place & {*KEYS} - {*net.concat_channels})):
        raise ValueError(
            f"cond[{wrong[0]!r}] has a value for each place of a clip, which packed clips (data/shapes=packed) have no"
            f" form of: {instead}"
        )


def check_channels(net: Mapping[str, Any], codec: Codec, text: TextEncoder | None) -> None:
    """Raises ValueError for widths of the network that are not those of codec and text encoder, with all overrides that
    make them so. Twice the channels may come out: DiT and Latte put a variance behind them, which is not trained."""
    wanted = dict.fromkeys(("in_channels", "out_channels"), ("the codec gives", codec.channels))
    if text is not None and reads_text(net["text"]):
        wanted["text_width"] = ("the text encoder", text.width)
    if net["out_channels"] == 2 * codec.channels:
        del wanted["out_channels"]
    wrong = [key for key, (_, width) in wanted.items() if net[key] != width]
    if wrong:
        (by, width), needed = wanted[wrong[0]], " ".join(f"net.{key}={wanted[key][1]}" for key in wrong)
        raise ValueError(f"net.{wrong[0]}={net[wrong[0]]}, but {by} {width}; add {needed}")


def check_given(net: Backbone, objective: Objective) -> None:
    """Raises ValueError for frames that are given beside the clip, where the network has no channels for them."""
    if not objective.given.in_place and "given_latents" not in net.concat_channels:
        raise ValueError(
            "given=beside shows given frames in channels beside the clip, and this network has none for them:"
            f" +net.concat_channels.given_latents={net.in_channels}, or given=held"
        )


def check_encoder(text: TextEncoder | None, signals: Collection[str]) -> None:
    """Raises ValueError for a text encoder that no signal uses: `label` and `fps` use none."""
    if text is not None and not set(signals) - {"label", "fps"}:
        raise ValueError(
            f"text={type(text).__name__} encodes captions, and no part of this network reads them: text=none leaves it"
            " out, and net/text=cross or net/pooled=mlp reads them"
        )
