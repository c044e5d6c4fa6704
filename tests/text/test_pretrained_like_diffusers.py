"""Text encoders of published models say of prompts what diffusers' pipelines say, and a spoiled part is noticed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from dit.config.build import build
from dit.signals.base import Around
from dit.signals.text import Text
from dit.text.pretrained import Pretrained
from tests.text import tiny
from tests.text.tiny import CAT, LONG, ODD, PROMPTS

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")
CONFIGS = Path(__file__).resolve().parents[2] / "configs/text"


class Said(NamedTuple):
    """What a pipeline of diffusers hands to its network; mask: None where it hands none."""

    text: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    glyphs: Tensor | None = None
    glyphs_mask: Tensor | None = None


class NoChecker(nn.Module):
    """In the place of Cosmos' safety checker."""


def _wan(parts: dict[str, Any], name: str = "WanPipeline") -> Callable[[Sequence[str]], Said]:
    pipeline = getattr(diffusers, name)(**parts, vae=None, transformer=None, scheduler=None)
    return lambda prompts: Said(pipeline.encode_prompt(list(prompts), None, False, max_sequence_length=512)[0])


def _skyreels(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    return _wan(parts, "SkyReelsV2Pipeline")


def _ltx(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    pipeline = diffusers.LTXPipeline(**parts, vae=None, transformer=None, scheduler=None)
    return lambda prompts: Said(*pipeline.encode_prompt(list(prompts), None, False)[:2])


def _cogvideox(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    pipeline = diffusers.CogVideoXPipeline(**parts, vae=None, transformer=None, scheduler=None)
    return lambda prompts: Said(pipeline.encode_prompt(list(prompts), None, False)[0])


def _mochi(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    pipeline = diffusers.MochiPipeline(
        **parts, vae=None, transformer=None, scheduler=None, force_zeros_for_empty_prompt=True
    )

    def said(prompts: Sequence[str]) -> Said:
        # One by one: an empty prompt at the end of a list hides all the others there.
        each = [pipeline.encode_prompt([prompt], None, False)[:2] for prompt in prompts]
        return Said(*(torch.cat(tensors) for tensors in zip(*each, strict=True)))

    return said


def _allegro(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    pipeline = diffusers.AllegroPipeline(**parts, vae=None, transformer=None, scheduler=None)
    return lambda prompts: Said(*pipeline.encode_prompt(list(prompts), False, clean_caption=True)[:2])


def _latte(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    pipeline = diffusers.LattePipeline(**parts, vae=None, transformer=None, scheduler=None)

    def said(prompts: Sequence[str]) -> Said:
        # One by one: of a batch, what fills up is zero and read by the network; of one prompt it is cut off.
        each = [pipeline.encode_prompt([prompt], False, clean_caption=True)[0][0] for prompt in prompts]
        text = torch.stack([nn.functional.pad(one, (0, 0, 0, 120 - len(one))) for one in each])
        return Said(text, torch.tensor([len(one) for one in each])[:, None] > torch.arange(120))

    return said


def _cosmos(parts: dict[str, Any], name: str = "CosmosTextToWorldPipeline") -> Callable[[Sequence[str]], Said]:
    kind = getattr(diffusers, name)
    pipeline = kind(**parts, vae=None, transformer=None, scheduler=None, safety_checker=NoChecker())
    cpu = torch.device("cpu")
    return lambda prompts: Said(pipeline.encode_prompt(list(prompts), None, False, device=cpu)[0])


def _cosmos2(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    return _cosmos(parts, "Cosmos2VideoToWorldPipeline")


def _cosmos25(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    kind = diffusers.Cosmos2_5_PredictBasePipeline
    pipeline = kind.__new__(kind)  # it wants the numbers of an autoencoder when it is built
    pipeline.tokenizer, pipeline.text_encoder = parts["tokenizer"], parts["text_encoder"]
    cpu = torch.device("cpu")
    return lambda prompts: Said(pipeline._get_prompt_embeds(list(prompts), device=cpu))


def _hunyuan_video(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    pipeline = diffusers.HunyuanVideoPipeline(**parts, vae=None, transformer=None, scheduler=None)

    def said(prompts: Sequence[str]) -> Said:
        text, pooled, mask = pipeline.encode_prompt(list(prompts))
        return Said(text, mask, pooled)

    return said


def _hunyuan_video15(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    kind, cpu = diffusers.HunyuanVideo15Pipeline, torch.device("cpu")  # which is not built without an autoencoder

    def said(prompts: Sequence[str]) -> Said:
        asked = list(prompts)
        reader = parts["text_encoder"], parts["tokenizer"]
        text, mask = kind._get_mllm_prompt_embeds(*reader, asked, cpu, crop_start=CROPS["hunyuan_video15"])
        glyphs, its_mask = kind._get_byt5_prompt_embeds(parts["tokenizer_2"], parts["text_encoder_2"], asked, cpu)
        return Said(text, mask, glyphs=glyphs, glyphs_mask=its_mask.bool())

    return said


def _kandinsky5(parts: dict[str, Any]) -> Callable[[Sequence[str]], Said]:
    pipeline = diffusers.Kandinsky5T2VPipeline(**parts, vae=None, transformer=None, scheduler=None)
    pipeline.prompt_template_encode_start_idx = CROPS["kandinsky5"]
    assert pipeline.prompt_template == recipe("kandinsky5")["parts"]["tokens"]["template"]["text"]

    def said(prompts: Sequence[str]) -> Said:
        text, pooled, _ = pipeline.encode_prompt(list(prompts))
        return Said(text, pooled=pooled)

    return said


T5 = {"tokenizer": tiny.unigram, "text_encoder": tiny.t5}
UMT5 = {"tokenizer": tiny.unigram, "text_encoder": lambda: tiny.t5("UMT5")}
HUNYUAN = {
    "tokenizer": lambda: tiny.words(recipe("hunyuan_video")["parts"]["tokens"]["template"]["text"], ends=False),
    "text_encoder": tiny.llama,
    "tokenizer_2": tiny.words,
    "text_encoder_2": tiny.clip,
}
QWEN = {
    "tokenizer": lambda: tiny.words("You are a helpful assistant system user", ends=False, chat=tiny.CHAT),
    "text_encoder": tiny.qwen,
}
HUNYUAN15 = {
    "tokenizer": lambda: tiny.words(
        recipe("hunyuan_video15")["parts"]["tokens"]["template"]["system"], chat=tiny.CHAT, ends=False
    ),
    "text_encoder": tiny.qwen_text,
    "tokenizer_2": lambda: tiny.words(ends=False),
    "text_encoder_2": lambda: tiny.t5(vocabulary=260),
}
KANDINSKY = {
    "tokenizer": lambda: tiny.words(recipe("kandinsky5")["parts"]["tokens"]["template"]["text"], ends=False),
    "text_encoder": tiny.qwen,
    "tokenizer_2": tiny.words,
    "text_encoder_2": tiny.clip,
}
CROPS = {
    "kandinsky5": 100,
    "hunyuan_video15": 80,
}  # other words than the model's own: fewer tokens in front of the prompt
# Name -> recipe, parts, diffusers' pipeline, and settings of the recipe that must be noticed.
FAMILIES: dict[str, tuple[str, dict[str, Any], Callable[..., Any], list[dict[str, Any]]]] = {
    "wan": ("wan", UMT5, _wan, [{"padding": "seen"}, {"clean": None}, {"masked": True}]),
    "skyreels_v2": ("wan", T5, _skyreels, [{"clean": None}]),
    "ltx": ("ltx", T5, _ltx, [{"padding": "zeros"}, {"masked": False}]),
    "cogvideox": ("cogvideox", T5, _cogvideox, [{"padding": "zeros"}, {"length": 225}]),
    "mochi": ("mochi", T5, _mochi, [{"hides_empty": False}, {"padding": "seen"}]),
    "allegro": ("allegro", T5, _allegro, [{"clean": None}, {"padding": "seen"}]),
    "latte": ("latte", T5, _latte, [{"clean": None}, {"length": 119}]),
    "cosmos": ("cosmos", T5, _cosmos, [{"padding": "seen"}]),
    "cosmos2": ("cosmos", T5, _cosmos2, [{"length": 511}]),
    "cosmos25": ("cosmos25", QWEN, _cosmos25, [{"template.system": "Sing."}, {"states": None}, {"length": 511}]),
    "hunyuan_video": (
        "hunyuan_video", HUNYUAN, _hunyuan_video,
        [{"template.crop": 94}, {"states.layers": 1}, {"template.text": "{}"}],
    ),
    "hunyuan_video15": (
        "hunyuan_video15", HUNYUAN15, _hunyuan_video15,
        [{"template.crop": 79}, {"template.blank": "a"}, {"template.answer": False}, {"length": 999}],
    ),
    "kandinsky5": ("kandinsky5", KANDINSKY, _kandinsky5, [{"to_length": True}, {"padding": "zeros"}, {"clean": None}]),
}  # fmt: skip


@cache
def recipe(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """A family's folder, made once, and the parts in it."""

    @cache
    def made(name: str) -> tuple[Path, dict[str, Any]]:
        parts = {key: make() for key, make in FAMILIES[name][1].items()}
        return tiny.save(tmp_path_factory.mktemp(name), **parts), parts

    return made


def changed(node: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe with other settings of its tokens, by dotted names; a state of None is the encoder's output."""
    node = copy.deepcopy(node)
    for path, value in changes.items():
        *above, key = path.split(".")
        inside = node["parts"]["tokens"]
        for name in above:
            inside = inside[name]
        inside[key] = {"_target_": "dit.text.states.Last"} if path == "states" and value is None else value
    return node


def difference(ours: dict[str, Tensor], theirs: Said) -> float:
    """The largest difference that a network could see; infinite for other shapes or masks."""
    mask = torch.ones_like(ours["text_mask"]) if theirs.mask is None else theirs.mask.bool()
    if ours["text"].shape != theirs.text.shape:
        return float("inf")
    if theirs.mask is not None and not torch.equal(mask, ours["text_mask"]):
        return float("inf")
    apart = [(ours["text"] - theirs.text)[mask].abs().max()]
    if theirs.pooled is not None:
        apart.append((ours["pooled"] - theirs.pooled).abs().max())
    if theirs.glyphs is not None:
        apart.append((ours["glyphs"] - theirs.glyphs)[theirs.glyphs_mask].abs().max())
        assert theirs.glyphs_mask is not None and torch.equal(ours["glyphs_mask"], theirs.glyphs_mask)
    return float(max(apart))


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_encoded_as_by_the_models_own_pipeline(name: str, folders: Any) -> None:
    recipe_name, _, pipeline, spoils = FAMILIES[name]
    folder, parts = folders(name)
    node = changed(
        {**recipe(recipe_name), "folder": str(folder)}, {"template.crop": CROPS[name]} if name in CROPS else {}
    )
    theirs = pipeline(parts)
    encoder: Pretrained = build(node)
    with torch.no_grad():
        said = theirs(PROMPTS)
        ours = encoder(PROMPTS)
        assert ours["text"].shape[-1] == encoder.width and ours["text"].dtype == torch.float32
        assert difference(ours, said) < 1e-6
        if node["parts"]["tokens"]["masked"] is False:
            assert bool(ours["text_mask"].all()), "the network reads what fills up"
        assert difference(encoder([ODD, CAT, "", LONG]), said) > 1e-3, "a swapped pair is seen"
        for changes in spoils:
            spoiled = build(changed(node, changes))(PROMPTS)
            if "masked" in changes:
                assert not torch.equal(spoiled["text_mask"], ours["text_mask"]), changes
            else:
                assert difference(spoiled, said) > 1e-3, changes


def test_of_a_negative_prompt_latte_reads_as_much_as_of_the_prompt(folders: Any) -> None:
    folder, parts = folders("latte")
    pipeline = diffusers.LattePipeline(**parts, vae=None, transformer=None, scheduler=None)
    signal = Text(Around(nn.Identity(), build({**recipe("latte"), "folder": str(folder)})))
    for prompt, negative in ((CAT, ODD), (ODD, ""), (LONG, CAT)):
        with torch.no_grad():
            said, away = pipeline.encode_prompt(prompt, True, negative, clean_caption=True)
            cond, uncond = signal.encode([prompt]), signal.encode([negative])
            uncond = signal.paired(cond, uncond)
        for ours, theirs in ((cond, said), (uncond, away)):
            assert torch.allclose(ours["text"][ours["text_mask"]], theirs[0], atol=1e-6)
        assert not torch.equal(uncond["text_mask"], signal.encode([negative])["text_mask"])


@pytest.mark.parametrize("spoil", [None, "every", "header", "template.crop", "states.layers", "picture"])
def test_a_prompt_with_a_picture_like_hunyuan_video(spoil: str | None, tmp_path: Path) -> None:
    template = recipe("hunyuan_video_i2v")["parts"]["tokens"]["template"]["text"]
    tokenizer = tiny.words(template, ends=False)
    mark, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<pad>"))
    parts = {
        "tokenizer": tokenizer, "text_encoder": tiny.llava(mark, end), "image_processor": tiny.image_processor(),
        "tokenizer_2": tiny.words(), "text_encoder_2": tiny.clip(),
    }  # fmt: skip
    folder = tiny.save(tmp_path, **parts)
    pipeline = diffusers.HunyuanVideoImageToVideoPipeline(**parts, vae=None, transformer=None, scheduler=None)
    front = tokenizer(template.partition("{}")[0])["input_ids"]  # other words than the model's own: fewer tokens
    at, crop = front.index(mark), len(front)
    theirs = {
        "template": template, "crop_start": crop, "image_emb_start": at, "image_emb_end": at + 9, "image_emb_len": 9
    }  # fmt: skip
    picture = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    node = changed({**recipe("hunyuan_video_i2v"), "folder": str(folder)}, {"template.crop": crop})
    if spoil is not None and spoil != "picture":
        node = changed(node, {spoil: {"template.crop": crop - 1, "states.layers": 1}.get(spoil, 3)})
    encoder: Pretrained = build(node)
    shown = torch.from_numpy(picture).permute(2, 0, 1)
    shown = shown.flip(2) if spoil == "picture" else shown
    assert encoder.sees_pictures
    with torch.no_grad():
        ours = encoder([(prompt, shown) for prompt in PROMPTS])
        for row, prompt in enumerate(PROMPTS):  # one by one: of several, none may be too long there
            text, pooled, mask = pipeline.encode_prompt(Image.fromarray(picture), [prompt], prompt_template=theirs)
            apart = difference({key: value[row : row + 1] for key, value in ours.items()}, Said(text, mask, pooled))
            assert apart < 1e-6 if spoil is None else apart > 1e-3, prompt
    if spoil is None:
        assert ours["text"].shape[1] == encoder.shapes(CAT)["text"].shape[1]
        with pytest.raises(ValueError, match="task=i2v image=FILE"):
            encoder([CAT])
