"""What the settings of an encoder, a tokenizer or an image processor may say: the files of a stranger are data.

transformers keeps whatever a `config.json` holds, and some of it names code, kernels of the hub, quantizers or other
files. So a number, true, false or null may stand under any key, and a text or a mapping under the keys alone that are
known here: what a later transformers may read is refused too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit.folders import read_json
from dit.foreign import below, shown

MOST_LAYERS = 512  # of the encoders that are read, the largest has 80
MOST_TOKENS = 2**17  # of a picture or clip; VideoMAE's has 1,568
MOST_PIXELS = 2**12  # along an edge of the pictures that a processor makes
MOST_INSIDE = 8  # mappings within one another
# Keys of a config.json whose texts are used.
TEXTS = (
    *("model_type", "dtype", "torch_dtype", "feed_forward_proj", "dense_act_fn", "hidden_act", "projector_hidden_act"),
    *("vision_feature_select_strategy", "layer_types", "type", "rope_type"),
)
PARTS = ("text_config", "vision_config")
MAPPINGS = (*PARTS, "rope_scaling", "rope_parameters", "full_attention", "sliding_attention")
# Of tasks and of how a folder was made: read by no encoder, and left out. So is what begins with an underscore.
LEFT_OUT = (
    *("architectures", "transformers_version", "tokenizer_class", "processor_class", "name_or_path", "problem_type"),
    *("id2label", "label2id", "num_labels", "task_specific_params", "finetuning_task", "prefix", "pruned_heads"),
    *("text_config_dict", "vision_config_dict", "transformers.js_config", "unsloth_version"),
)
ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
ATTENTIONS = (None, "eager", "sdpa")  # what may stand there, of which none is used: which one computes is said here
CODE = (  # never read, and never left out in silence, since the weights would mean something else without
    *("auto_map", "quantization_config", "compression_config", "transformers_weights", "configuration_files"),
    *("gguf_file", "fusion_config", "kernel_config", "use_kernels", "experts_implementation", "per_layer_config"),
)
DTYPES = ("float64", "float32", "float16", "bfloat16")
# Of a tokenizer_config.json: other files, objects, or arguments without a name.
OF_TOKENIZERS = (
    *("auto_map", "fast_tokenizer_files", "gguf_file", "tokenizer_object", "slow_tokenizer", "__slow_tokenizer"),
    *("init_inputs", "sp_model_kwargs", "vocab", "merges", "post_processor"),
)
FILES_OF_TOKENIZERS = ("vocab_file", "merges_file", "spm_file", "tokenizer_file")  # where they lay when it was saved
OTHER_WEIGHTS = ("adapter_config.json", "shard-*.safetensors")  # that transformers would read in their place


def checked(settings: Mapping[str, Any], file: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    """The settings of an encoder, without those that it does not read. Raises ValueError, in one line with the file and
    the key, for one that names code, kernels or other files, or that may, or for sizes that no encoder has.

    kinds: what `model_type` may be, also of the encoder's parts.
    """
    return _Checked(file, kinds).mapping(settings, "", 0)


def check_folder(folder: Path) -> None:
    """Raises ValueError, in one line, for files in an encoder's folder that would take the place of its own weights."""
    for pattern in OTHER_WEIGHTS:
        for found in sorted(folder.glob(pattern)):
            raise ValueError(
                f"{found} stands beside the encoder's own weights and would be read with or in place of them: take it"
                " out of the folder, and an adapter into the weights"
            )


def check_tokenizer(settings: Mapping[str, Any], file: Path) -> None:
    """Raises ValueError, in one line with the file and the key, for settings of a tokenizer, and the list of its marks
    beside them, that name code or other files."""
    marks = file.parent / "special_tokens_map.json"
    held = {file: settings} | ({marks: read_json(marks)} if marks.is_file() else {})
    for place, said in held.items():
        for key in (*OF_TOKENIZERS, *(FILES_OF_TOKENIZERS if place == marks else ())):
            if said.get(key):
                raise _refused(place, key, said[key])


def check_processor(settings: Mapping[str, Any], file: Path) -> None:
    """The same of an image processor, and for pictures larger than any encoder takes."""
    if settings.get("auto_map"):
        raise _refused(file, "auto_map", settings["auto_map"])
    for key in ("size", "crop_size", "pad_size"):
        said = settings.get(key)
        for number in said.values() if isinstance(said, Mapping) else said if isinstance(said, list) else [said]:
            if isinstance(number, (int, float)) and number > MOST_PIXELS:
                raise ValueError(f"{file}: {key}={shown(said)} is more than an encoder takes, {MOST_PIXELS} pixels")


class _Checked:
    def __init__(self, file: Path, kinds: tuple[str, ...]) -> None:
        self.file, self.kinds = file, kinds

    def mapping(self, settings: Mapping[str, Any], place: str, depth: int) -> dict[str, Any]:
        if depth > MOST_INSIDE:
            raise ValueError(f"{self.file}: {place[:60]} is deeper than settings are")
        found = {}
        for key, value in settings.items():
            if key in ATTENTION and value not in ATTENTIONS:
                raise self.refused(place, key, value)
            if key in CODE and value:
                raise self.refused(place, key, value)
            if key not in (*LEFT_OUT, *ATTENTION, *CODE) and not key.startswith("_"):
                found[key] = self.value(key, value, place, depth)
        self.sizes(found, place)
        return found

    def value(self, key: str, value: Any, place: str, depth: int) -> Any:
        if isinstance(value, Mapping):
            if value and key not in MAPPINGS:
                raise self.refused(place, key, value)
            return self.mapping(value, below(place, key), depth + 1)
        for each in _flat(value, self.file, below(place, key)):
            if isinstance(each, Mapping) or (isinstance(each, str) and each and key not in TEXTS):
                raise self.refused(place, key, value)
            if key in ("dtype", "torch_dtype") and each is not None and each not in DTYPES:
                raise ValueError(f"{self.file}: {below(place, key)}={shown(value)} is none of {', '.join(DTYPES)}")
            if key == "model_type" and each not in self.kinds:
                known = ", ".join(self.kinds)
                raise ValueError(f"{self.file}: {below(place, key)}={shown(value)} is none of {known}")
        return value

    def sizes(self, settings: Mapping[str, Any], place: str) -> None:
        for key, value in settings.items():
            if ("layers" in key or key == "depth") and isinstance(value, (int, float)) and value > MOST_LAYERS:
                said = f"{below(place, key)}={shown(value)}"
                raise ValueError(f"{self.file}: {said} is more than an encoder has, {MOST_LAYERS} layers")
        edge, patch = _numbers(settings.get("image_size")), _numbers(settings.get("patch_size"))
        frames, tube = _numbers(settings.get("num_frames")), _numbers(settings.get("tubelet_size"))
        tokens = (max(edge, default=1) // max(min(patch, default=16), 1)) ** 2
        tokens *= max(max(frames, default=1) // max(min(tube, default=2), 1), 1)
        if tokens > MOST_TOKENS:
            said = below(place, "image_size")
            raise ValueError(f"{self.file}: {said} makes {tokens:,} tokens, and {MOST_TOKENS:,} are the most")

    def refused(self, place: str, key: str, value: Any) -> ValueError:
        return _refused(self.file, below(place, key), value)


def _refused(file: Path, key: str, value: Any) -> ValueError:
    return ValueError(
        f"{file}: {key}={shown(value)} is refused, since it may name code of its own or other files; take it out if the"
        " model is the same without"
    )


def _flat(value: Any, file: Path, place: str) -> list[Any]:
    """What a list holds, lists in it gone through; of anything else itself."""
    found, left = [], [(value, 0)]
    while left:
        each, depth = left.pop()
        if isinstance(each, list) and depth < MOST_INSIDE:
            left.extend((inner, depth + 1) for inner in each)
        elif isinstance(each, list):
            raise ValueError(f"{file}: {place} is deeper than settings are")
        else:
            found.append(each)
    return found


def _numbers(value: Any) -> list[int]:
    return [each for each in (value if isinstance(value, list) else [value]) if type(each) is int]
