"""Files of an encoder's folder that would lead to other code or files: one line each, and nothing runs."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from dit import encoders
from tests.hostile import watched
from tests.text import tiny
from tests.text.tiny import CAT

pytest.importorskip("transformers")

WHAT_IS_NOT_READ = [
    {"auto_map": {"AutoConfig": "evil.Config"}},
    {"attn_implementation": "evil/kernel"},
    {"_attn_implementation": "evil/kernel"},
    {"_attn_implementation_internal": "evil/kernel"},
    {"attn_implementation": "flash_attention_2"},
    {"attn_implementation": {"": "evil/kernel"}},
    {"experts_implementation": "evil/kernel"},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"transformers_weights": "other.safetensors"},
    {"configuration_files": ["config.4.0.0.json"]},
    {"gguf_file": "/etc/passwd"},
    {"use_kernels": True},
    {"fusion_config": {"x": 1}},
    {"per_layer_config": {"0": {"d_ff": 4}}},
    {"what_a_later_version_reads": "evil/kernel"},
    {"what_a_later_version_reads": [["evil/kernel"]]},
    {"what_a_later_version_reads": {"x": 1}},
    {"dtype": "save"},
    {"torch_dtype": "autocast"},
    {"rope_scaling": {"kernel": "evil/kernel"}},
    {"num_layers": 10**9},
    {"num_hidden_layers": 1e9},
    {"image_size": 10**6, "patch_size": 1},
]
INSIDE = [{part: {**each}} for part in ("text_config", "vision_config") for each in WHAT_IS_NOT_READ]
OTHER_CLASS = [{"text_config": {"model_type": "timm_wrapper"}}, {"text_config": {"text_config": WHAT_IS_NOT_READ[1]}}]


def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As if the package that fetches code of the hub were there; the names that it is asked for."""
    asked: list[str] = []

    def get_kernel(name: str, *_: object, **__: object) -> None:
        asked.append(name)
        raise RuntimeError("code was asked for")

    stub = types.ModuleType("kernels")
    stub.get_kernel = stub.get_local_kernel = get_kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernels", stub)
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and "is_kernels_available" in vars(module):
            monkeypatch.setattr(module, "is_kernels_available", lambda *_, **__: True)
    if "transformers.integrations.hub_kernels" in sys.modules:
        monkeypatch.setattr("transformers.integrations.hub_kernels._kernels_available", True, raising=False)
        monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", get_kernel, raising=False)
    return asked


def said_of(folder: Path) -> str | None:
    """What is said of an encoder's folder; None: it is loaded. Nothing may happen, and no other error be raised."""
    with watched() as seen:
        try:
            encoders.load_encoder(folder, None, "text.folder")
            said = None
        except ValueError as error:
            said = str(error)
    assert not seen, seen
    assert said is None or ("\n" not in said and said.isprintable() and str(folder) in said), said
    return said


@pytest.mark.parametrize("more", [*WHAT_IS_NOT_READ, *INSIDE, *OTHER_CLASS], ids=str)
def test_settings_that_may_name_code_or_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Any
) -> None:
    made = shutil.copytree(folder, tmp_path / "made") / "text_encoder"
    assert said_of(made) is None  # and all is imported
    asked, config = kernels(monkeypatch), made / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **more}))
    said = said_of(made)
    assert said is not None and f"{config}: " in said, said
    keys = [*more, *next(iter(more.values()))] if next(iter(more)).endswith("_config") else [*more]
    assert any(key in said for key in keys), said
    assert not asked


@pytest.mark.parametrize(
    "more",
    [
        *({"attn_implementation": name, "_attn_implementation": name} for name in (None, "eager", "sdpa")),
        {"_name_or_path": "google/umt5-xxl", "_commit_hash": "abc", "_attn_implementation_autoset": True},
        {"architectures": ["UMT5EncoderModel"], "transformers_version": "4.44.2", "torch_dtype": "bfloat16"},
        {"task_specific_params": {"summarization": {"prefix": "summarize: "}}, "output_past": True, "use_cache": True},
        {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": None, "pruned_heads": {}},
        {"quantization_config": None, "auto_map": None, "tokenizer_class": "T5Tokenizer", "n_positions": 512},
        {"dense_act_fn": "gelu_new", "is_gated_act": True, "classifier_dropout": 0.0, "scalable_attention": True},
    ],
    ids=str,
)
def test_settings_of_published_folders_are_read(folder: Path, tmp_path: Path, more: Any) -> None:
    made = shutil.copytree(folder, tmp_path / "made") / "text_encoder"
    config = made / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **more}))
    assert said_of(made) is None


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "shard-00001-model-00001-of-00001.safetensors", "generation_config.json"]
)
def test_files_beside_the_weights(folder: Path, tmp_path: Path, name: str) -> None:
    made = shutil.copytree(folder, tmp_path / "made") / "text_encoder"
    other = {"base_model_name_or_path": "evil/model", "peft_type": "LORA", "r": 2, "target_modules": ["q"]}
    (made / name).write_text(json.dumps({**other, "custom_generate": "evil/model", "auto_map": {"x": "evil.X"}}))
    assert (said_of(made) is None) == (name == "generation_config.json")  # which no encoder reads
    if name != "generation_config.json":
        with pytest.raises(ValueError, match=f"{name} stands beside the encoder's own weights"):
            encoders.check_encoder(made)


def test_more_weights_than_there_are_take_no_memory(folder: Path, tmp_path: Path) -> None:
    made = shutil.copytree(folder, tmp_path / "made") / "text_encoder"
    config = made / "config.json"
    for key, value in (("d_ff", 10**11), ("vocab_size", 10**11), ("num_layers", 100)):
        sound = json.loads(config.read_text())
        config.write_text(json.dumps({**sound, key: value}))
        said = said_of(made)
        assert said is not None and "of the weights that its config names" in said, said
        config.write_text(json.dumps(sound))


@pytest.mark.parametrize(
    "name, more",
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../outside/tokenizer.1.0.json"]}),
        ("tokenizer_config.json", {"gguf_file": "/etc/passwd"}),
        ("tokenizer_config.json", {"init_inputs": ["x"]}),
        ("tokenizer_config.json", {"vocab": "/etc/passwd"}),
        ("special_tokens_map.json", {"tokenizer_file": "/etc/passwd"}),
        ("special_tokens_map.json", {"vocab_file": "/etc/passwd"}),
    ],
    ids=str,
)
def test_settings_of_tokenizers_that_may_name_code_or_files(folder: Path, tmp_path: Path, name: str, more: Any) -> None:
    made = shutil.copytree(folder, tmp_path / "made") / "tokenizer"
    encoders.load_tokenizer(made, "text.folder")
    file = made / name
    sound = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**sound, **more}))
    with watched() as seen, pytest.raises(ValueError, match=f"{name}: {next(iter(more))}=.* is refused"):
        encoders.load_tokenizer(made, "text.folder")
    assert not seen


def test_where_a_tokenizer_lay_says_nothing(folder: Path, tmp_path: Path) -> None:
    """Published ones hold such paths, of the machine that saved them; the class that they name need not be there."""
    made = shutil.copytree(folder, tmp_path / "made") / "tokenizer"
    own, file = encoders.load_tokenizer(made, "text.folder")(CAT).input_ids, made / "tokenizer_config.json"
    (tmp_path / "other.json").write_text("{")
    paths = {"tokenizer_file": str(tmp_path / "other.json"), "vocab_file": "/etc/passwd", "name_or_path": "evil/x"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **paths, "tokenizer_class": "os.system"}))
    assert encoders.load_tokenizer(made, "text.folder")(CAT).input_ids == own


def test_settings_of_image_processors(tmp_path: Path) -> None:
    tiny.image_processor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    sound = json.loads(file.read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": {"shortest_edge": 10**6}}}))
    assert encoders.load_image_processor(tmp_path, "x").size["shortest_edge"] == 24  # of its own file
    for more, said in (
        ({"auto_map": {"AutoImageProcessor": "evil.X"}}, "auto_map=.* is refused"),
        ({"size": {"shortest_edge": 10**6}}, "size=.* is more than an encoder takes"),
        ({"crop_size": 10**6}, "crop_size=.* is more than an encoder takes"),
        ({"image_processor_type": "os.system"}, "is of the class 'os.system'"),
    ):
        file.write_text(json.dumps({**sound, **more}))
        with watched() as seen, pytest.raises(ValueError, match=said) as caught:
            encoders.load_image_processor(tmp_path, "x")
        assert not seen and "\n" not in str(caught.value)
