"""Small parts of models with random weights, which whole pipelines are put together of."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

WORDS = ["a", "red", "blue", "circle", "square", "moves", "left", "right", "slowly", ".", ",", "blurry", "ugly"]
WIDTH = 32  # of text features
WAN_VAE = {
    "base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}  # fmt: skip


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Every parameter random: what is zero or one at first would hide whatever is wrong there."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.dim() > 1 else 0.2
            start = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
            parameter.copy_(start + spread * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Words, and what is none of them letter by letter; a text ends with </s>, as T5's do."""
    letters = [chr(i) for i in range(33, 127)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", *WORDS, *letters]))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length
    )


def t5(kind: type[Any], config: type[Any]) -> nn.Module:
    settings = config(
        vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return randomise(kind(settings), 1)


class NoChecker(nn.Module):
    """In place of Cosmos' guardrail, which is a download: everything passes."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def picture(seed: int, height: int, width: int) -> Image.Image:
    """A random one, of the size of a clip, so that nobody has to fit it in."""
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
