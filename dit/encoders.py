"""Encoders of texts and images as transformers saves them, out of the folder of a published model.

They are classes of transformers, used as they are, and loaded here alone. Nothing in a folder runs: weights are
safetensors, a class must stand in a table below, settings and tokenizers are data, and no connection is opened. Weights
are read when they are needed and no earlier: a large encoder comes and goes (`dit/text/pretrained.py`).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit import encoder_settings
from dit.folders import CONFIG, Weights, fingerprint_of, located, needed, read_config, read_json
from dit.machine import memory, size_in_words

WEIGHTS = "model.safetensors"
HUB = "hub:"
CLASSES = {  # `model_type` of a config.json -> class of transformers
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip_text_model": "CLIPTextModel",
    "clip_vision_model": "CLIPVisionModel",
    "llama": "LlamaModel",
    "llava": "LlavaModel",
    "qwen2": "Qwen2Model",
    "qwen2_5_vl": "Qwen2_5_VLModel",
    "qwen2_5_vl_text": "Qwen2_5_VLTextModel",
    "videomae": "VideoMAEModel",  # features of clips that are measured
}
OF_PARTS = ("qwen2_5_vl_vision",)  # what `model_type` may be in an encoder's parts, beside those
TOKENIZERS = (
    "T5Tokenizer",
    "ByT5Tokenizer",
    "CLIPTokenizer",
    "LlamaTokenizer",
    "Qwen2Tokenizer",
)  # read without a json
SPARE = 2**20  # weights of a config, beyond twice those of its file, that may be missing until they are loaded
SENTENCEPIECE = ("spiece.model", "tokenizer.model")
IMAGE_PROCESSORS = ("CLIPImageProcessor",)


def parts(folder: str | None, key: str, first: str, *others: str) -> list[Path]:
    """The folders of those names (`text_encoder`, `tokenizer`; `.` is itself) in that of a published model.

    folder: a path, or `hub:ORG/NAME[@REVISION]`, as `dit.folders.located` has it. key: of the setting, for messages.
    first: the one that holds a config.json.

    Raises FileNotFoundError or ValueError, in one line, when none is named or one is not there.
    """
    if folder is None:
        raise ValueError(f"{key} is missing: the folder of a published model (diffusers' layout), {key}=DIR")
    if folder.startswith(HUB):
        repository, at, revision = folder.partition("@")
        root = located("/".join([repository, *Path(first).parts]) + at + revision, key)
        for _ in Path(first).parts:
            root = root.parent
    else:
        root = located(folder, key)
    for name in (first, *others):
        if not (root / name).is_dir():
            there = ", ".join(sorted(entry.name for entry in root.iterdir())[:12]) or "nothing"
            raise FileNotFoundError(f"{key}={folder} has no folder {name}, which is needed; it holds {there}")
    return [root / name for name in (first, *others)]


def config_of(folder: Path, key: str) -> Any:
    """The config of an encoder, as transformers' own object. Raises FileNotFoundError or ValueError, in one line: no
    config.json, a class that is not among `CLASSES`, or what `dit.encoder_settings` refuses."""
    said = read_config(folder, "encoder", folder.name)
    kind = said.get("model_type")
    if kind not in CLASSES:
        known = ", ".join(CLASSES)
        raise ValueError(f"{folder / CONFIG}: model_type {str(kind)[:60]!r} is not among those that are read: {known}")
    encoder_settings.check_folder(folder)
    settings = encoder_settings.checked(said, folder / CONFIG, (*CLASSES, *OF_PARTS))
    transformers = needed("transformers", key)
    with _quiet(), _in_one_line(folder):
        return transformers.CONFIG_MAPPING[kind].from_dict(settings)


def check_encoder(folder: Path) -> None:
    """Looks at the heads of an encoder's files, and reads none of its weights. Raises FileNotFoundError or ValueError,
    in one line, for files that are missing, cut short or pickles, or more than this machine's memory holds."""
    encoder_settings.check_folder(folder)
    held = Weights(folder, WEIGHTS)  # what is wrong with the files is said as it is of any other folder
    size = sum(file.stat().st_size for file in {held.file_of(name) for name in held})
    if size > (there := memory()):
        raise ValueError(
            f"{folder} holds {size_in_words(size)} of weights, and this machine has {size_in_words(there)}"
        )


def load_encoder(folder: Path, dtype: torch.dtype | None, key: str) -> nn.Module:
    """The encoder of a folder, on the CPU, in evaluation mode, its weights in `dtype` (None: as they were saved).

    Raises FileNotFoundError or ValueError, in one line: as `config_of`, pickles, weights that are missing, or more of
    them than this machine's memory holds.
    """
    config = config_of(folder, key)
    check_encoder(folder)
    kind = getattr(needed("transformers", key), CLASSES[config.model_type])
    with _quiet(), _in_one_line(folder):
        _check_count(kind, config, Weights(folder, WEIGHTS))
        model, info = kind.from_pretrained(
            str(folder), config=config, dtype=dtype or "auto", use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True, attn_implementation=None,
        )  # fmt: skip
    for name, found, needed_shape in sorted(info["mismatched_keys"]):
        raise ValueError(f"{folder}: {name} has the shape {tuple(found)}, needed {tuple(needed_shape)}")
    if absent := sorted(info["missing_keys"]):
        raise ValueError(f"{folder} lacks {len(absent)} of the weights that its config names, such as {absent[0]}")
    return model.eval().requires_grad_(False)


def _check_count(kind: Any, config: Any, held: Weights) -> None:
    """Raises ValueError for a config that names far more weights than there are, before memory is taken for them; a few
    that are missing are said by name when the others are loaded."""
    with torch.device("meta"):
        wanted = sum(each.numel() for each in kind(copy.deepcopy(config)).parameters())
    there = sum(tensor.numel() for tensor in held.empty().values())
    if wanted > 2 * there + SPARE:
        raise ValueError(f"it lacks {wanted - there:,} of the weights that its config names")


def load_tokenizer(folder: Path, key: str) -> Any:
    """The tokenizer of a folder: its tokenizer.json as it stands, or what an older folder is turned into.

    Raises FileNotFoundError or ValueError, in one line: files that are missing, or a class that is not known.
    """
    said = _settings_of(folder, "tokenizer_config.json")
    encoder_settings.check_tokenizer(said, folder / "tokenizer_config.json")
    name = str(said.get("tokenizer_class", "")).removesuffix("Fast")
    transformers = needed("transformers", key)
    if (folder / "tokenizer.json").is_file():
        kind = transformers.PreTrainedTokenizerFast
    elif name in TOKENIZERS:
        if any((folder / file).is_file() for file in SENTENCEPIECE):
            needed("sentencepiece", key)
        kind = getattr(transformers, name)
    else:
        known = ", ".join(TOKENIZERS)
        raise FileNotFoundError(f"{folder} has no tokenizer.json, and {name[:60]!r} is not read without: {known} are")
    with _quiet(), _in_one_line(folder):
        return kind.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False,
            **dict.fromkeys(encoder_settings.FILES_OF_TOKENIZERS),  # of the folder, and no others
        )  # fmt: skip


def load_image_processor(folder: Path, key: str) -> Any:
    """What makes an encoder's input of a picture. Raises FileNotFoundError or ValueError, in one line."""
    said = _settings_of(folder, "preprocessor_config.json")
    encoder_settings.check_processor(said, folder / "preprocessor_config.json")
    name = str(said.get("image_processor_type", said.get("feature_extractor_type", ""))).removesuffix("Fast")
    if name not in IMAGE_PROCESSORS:
        raise ValueError(f"{folder} is of the class {name[:60]!r}; those that are read: {', '.join(IMAGE_PROCESSORS)}")
    with _quiet(), _in_one_line(folder):
        return getattr(needed("transformers", key), name).from_dict(said)


def files(*parts: Path) -> list[Path]:
    """The files of folders that decide what these do: settings, tokenizers and weights, sorted."""
    kinds = (".json", ".txt", ".model", ".jinja", ".safetensors")
    return [file for folder in parts for file in sorted(folder.iterdir()) if file.suffix in kinds and file.is_file()]


def picture_name(picture: Tensor) -> str:
    """A short name of a picture, uint8 (3, h, w): equal pictures have equal names."""
    return f"{tuple(picture.shape)} {hashlib.sha256(picture.cpu().contiguous().numpy().data).hexdigest()}"


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] as uint8."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def fingerprint(files: Sequence[Path]) -> str:
    """A hash of files: of their folders' names, their own names and their content."""
    return fingerprint_of({f"{file.parent.name}/{file.name}": file for file in files})


def _settings_of(folder: Path, name: str) -> dict[str, Any]:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} has no {name}: fetch the model whole")
    return read_json(folder / name)


@contextlib.contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    """Whatever the library says of a folder's content, which may be anything, as a ValueError of one line."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{folder} cannot be read: {lines[0][:200]}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own notes and bars."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)
    said: Any = needed("transformers.utils.logging", "")
    shown = said.is_progress_bar_enabled()
    said.disable_progress_bar()
    try:
        yield
    finally:
        log.setLevel(level)
        if shown:
            said.enable_progress_bar()
