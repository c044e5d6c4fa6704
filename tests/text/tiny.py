"""Folders of published models in miniature: encoders with random weights and tokenizers that were trained here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

CAT = "a cat runs"
ODD = (
    'Ein  größerer Hund &amp; 猫,\n\tläuft <b>schön</b>; see "two words" “and more” at'
    " https://example.com/a_b-c-d_e-f or IMG_2034.png"
)
LONG = "the red ball rolls down the hill and " * 40 + "ends"
PROMPTS = [CAT, ODD, "", LONG]
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
HEADERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<image>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }} \n"
    "{% if message.content is string %}{{ message.content }}{% else %}{{ message.content[0].text }}{% endif %}"
    " <|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant \n{% endif %}"
)


def unigram() -> Any:
    """A tokenizer as T5's: pieces of words, an end, capitals kept."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL[:3], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(PROMPTS, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def words(*more: str, ends: bool = True, chat: str | None = None) -> Any:
    """A tokenizer of whole words, those of the prompts and of `more`; any other one is unknown."""
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    trainer = trainers.WordLevelTrainer(special_tokens=[*SPECIAL, *HEADERS], show_progress=False)
    made.train_from_iterator([*PROMPTS, *more], trainer)
    single = "<s> $A </s>" if ends else "<s> $A"
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 3), ("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="</s>" if ends else "<pad>", eos_token="</s>", bos_token="<s>",
        unk_token="<unk>", model_max_length=77 if ends else 4096, chat_template=chat, padding_side="right",
    )  # fmt: skip


def randomised(model: nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def t5(kind: str = "T5", vocabulary: int = 140) -> Any:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, relative_attention_num_buckets=8,
        relative_attention_max_distance=16, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return randomised(getattr(transformers, f"{kind}EncoderModel")(config), 1)


def clip() -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=200, hidden_size=12, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=8, max_position_embeddings=77, bos_token_id=3, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return randomised(transformers.CLIPTextModel(config), 2)


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=260, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, bos_token_id=3, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return randomised(transformers.LlamaModel(config), 3)


def qwen_text() -> Any:
    config = qwen().config.text_config
    return randomised(transformers.Qwen2_5_VLTextModel(config), 7)


def qwen() -> Any:
    text = {
        "vocab_size": 260, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 1024, "bos_token_id": 3, "eos_token_id": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16,
        "window_size": 112, "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return randomised(transformers.Qwen2_5_VLForConditionalGeneration(config), 4)


def llava(mark: int, end: int) -> Any:
    """mark: the token of the picture, whose 9 patches stand in its place. end: of padding."""
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": 24, "patch_size": 8, "projection_dim": 8,
    }  # fmt: skip
    text = {"model_type": "llama", **llama().config.to_diff_dict()}
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=mark, pad_token_id=end, image_seq_length=9
    )
    return randomised(transformers.LlavaForConditionalGeneration(config), 6)


def image_processor() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})


def save(folder: Path, **parts: Any) -> Path:
    """Each part in its own folder, as diffusers lays them out."""
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder


def counted(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """The same, with each call's arguments noted."""

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return function(*args, **kwargs)

    return called
