"""Published text encoders: when their models are loaded and let go, and what is kept of prompts."""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dit import encoders, folders
from dit.config.build import build
from dit.feature_store import FeatureStore
from dit.text import pretrained
from dit.text.pretrained import Pretrained
from tests.text import tiny
from tests.text.tiny import CAT, LONG, ODD, PROMPTS
from tests.text.wan import equal, node

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = {"tokenizer": tiny.words("{}", ends=False), "text_encoder": tiny.llama()}
    return tiny.save(tmp_path_factory.mktemp("two"), **parts, tokenizer_2=tiny.words(), text_encoder_2=tiny.clip())


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The folders of models that were loaded."""
    calls: list[Any] = []
    monkeypatch.setattr(pretrained, "load_encoder", tiny.counted(encoders.load_encoder, calls))
    return calls


def test_it_holds_no_weights_and_loads_them_when_a_prompt_asks(folder: Path, loads: list[Any]) -> None:
    encoder: Pretrained = build(node(folder))
    assert not loads and not list(encoder.parameters()) and not encoder.state_dict()
    assert encoder.makes == ("text", "text_mask") and encoder.pooled_width is None
    shapes = encoder.shapes(CAT)
    assert not loads, "shapes need no weights"
    said = encoder([CAT, CAT, ""])
    assert len(loads) == 1 and torch.equal(said["text"][0], said["text"][1])
    assert {key: tensor.shape[1:] for key, tensor in shapes.items()} == {k: t.shape[1:] for k, t in said.items()}
    encoder([ODD])
    assert len(loads) == 1
    assert not encoder.state_dict() and not list(encoder.parameters()), "nor when it is loaded"
    encoder.release()
    encoder([CAT])
    assert len(loads) == 2


def test_a_prompts_features_are_the_same_bits_in_any_company(folder: Path) -> None:
    encoder = build(node(folder))
    together, alone = encoder(PROMPTS), [encoder([prompt]) for prompt in PROMPTS]
    for row, one in enumerate(alone):
        assert torch.equal(together["text"][row], one["text"][0])


def test_what_is_remembered_asks_no_model_and_models_come_one_after_another(two: Path, loads: list[Any]) -> None:
    encoder: Pretrained = build(node(two, "hunyuan_video", template=None))
    fresh = build(node(two, "hunyuan_video", template=None))(PROMPTS)
    loads.clear()
    held: list[int] = []
    once = encoder._row
    encoder._row = lambda *args: (once(*args), held.append(len(encoder.models)))[0]  # type: ignore[method-assign, func-returns-value]
    assert not encoder.knows(PROMPTS)
    encoder.remember([*PROMPTS, CAT])
    assert len(loads) == 2 and held == [1] * 2 * len(PROMPTS) and not encoder.models
    assert encoder.knows(PROMPTS) and equal(encoder(PROMPTS), fresh) and len(loads) == 2
    encoder.remember([CAT])
    assert encoder.knows([CAT]) and not encoder.knows([ODD]), "what is not named again is forgotten"
    assert len(loads) == 2


def test_it_says_of_prompts_what_is_on_disk_across_processes(folder: Path, tmp_path: Path, loads: list[Any]) -> None:
    first, second = build(node(folder)), build(node(folder))
    fresh = build(node(folder))(PROMPTS)
    loads.clear()
    first.keep_in(tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "nothing is written before there is something to keep"
    assert equal(first(PROMPTS), fresh)
    second.keep_in(tmp_path / "cache")
    assert equal(second(PROMPTS), fresh) and len(loads) == 1
    assert second.fill(PROMPTS) == 0 and second.fill(["a new one"]) == 1 and len(loads) == 2
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == len(PROMPTS) + 1 and {path.suffix for path in files} == {".safetensors"}


@pytest.mark.parametrize(
    "changes", [{"length": 32}, {"clean": None}, {"states": {"_target_": "dit.text.states.AllNormed"}}]
)
def test_other_settings_share_nothing_on_disk(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    first, second = build(node(folder)), build(node(folder, **changes))
    for each in (first, second):
        each.keep_in(tmp_path)
    assert first.store.folder != second.store.folder
    first([CAT])
    assert second.store.read(CAT) is None
    half = build({**node(folder), "dtype": "bfloat16"})
    half.keep_in(tmp_path)
    assert half.store.folder not in (first.store.folder, second.store.folder)


def test_another_model_shares_nothing_on_disk_and_is_refused_by_fingerprint(folder: Path, tmp_path: Path) -> None:
    mark = build(node(folder)).identified()
    other = shutil.copytree(folder, tmp_path / "other")
    assert build({**node(other), "fingerprint": mark}).identified() == mark, "wherever the files lie"
    model = tiny.t5("UMT5")
    next(iter(model.parameters())).data[5, 3] += 1
    model.save_pretrained(other / "text_encoder")
    assert build(node(other)).identified() != mark
    with pytest.raises(ValueError, match=f"is not the text encoder that this was trained with.*needed {mark}"):
        build({**node(other), "fingerprint": mark})


def test_a_fingerprint_sees_any_of_many_places_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "WHOLE", 100)
    monkeypatch.setattr(folders, "SAMPLE", 16)
    file = tmp_path / "model.safetensors"
    content = bytearray(range(256)) * 64
    file.write_bytes(content)
    before = encoders.fingerprint([file])
    for place in (0, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert encoders.fingerprint([file]) != before
    file.write_bytes(content + b"0")
    assert encoders.fingerprint([file]) != before


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_a_warning_and_is_encoded_anew(
    folder: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, loads: list[Any]
) -> None:
    encoder = build(node(folder))
    encoder.keep_in(tmp_path)
    before = encoder([CAT])
    file = encoder.store.file(CAT)
    whole = file.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 16]) + whole[-4:]
    file.write_bytes({"cut": whole[:-9], "flipped": flipped, "empty": b"", "text": b"not a tensor"}[damage])
    assert equal(encoder([CAT]), before)
    (said,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert str(file) in said and "\n" not in said
    assert file.read_bytes() == whole, "it is mended"
    caplog.clear()
    assert equal(encoder([CAT]), before) and not caplog.records


def test_a_folder_that_cannot_be_written_is_one_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    encoder = build(node(folder))
    encoder.keep_in(tmp_path / "cache")
    encoder([CAT, ODD])
    assert len([record for record in caplog.records if "cannot be written" in record.getMessage()]) == 1


def write_often(folder: str, mark: str) -> None:
    store = FeatureStore(Path(folder), mark)
    for turn in range(40):
        prompt = f"prompt {turn % 4}"
        kept = store.read(prompt)
        assert kept is None or torch.equal(kept["a.b"], torch.full((300,), float(turn % 4)))
        store.write(prompt, {"a.b": torch.full((300,), float(turn % 4))})


def test_processes_at_once_do_one_another_no_harm(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_often, args=(str(tmp_path), "mark")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4, "no part of a file is left"


def test_of_a_long_prompt_the_first_tokens_are_read_which_is_said_once(
    folder: Path, two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder: Pretrained = build(node(folder))
    assert [encoder.readable(prompt) for prompt in (CAT, "", ODD)] == [CAT, "", ODD]
    read = encoder.readable(LONG)
    assert LONG.startswith(read) and 0 < len(read) < len(LONG) / 2
    with torch.no_grad():
        assert torch.equal(encoder([LONG])["text"], encoder([read])["text"])
        encoder([LONG + "x"])
    said = [record.getMessage() for record in caplog.records]
    assert (
        len(said) == 1 and said[0].startswith("1 of 1 prompts are longer than the 128 tokens") and "\n" not in said[0]
    )
    template = {"_target_": "dit.text.template.Fixed", "text": "the red ball {} ends", "crop": 4}
    around: Pretrained = build(node(two, "hunyuan_video", template=template))
    read = around.readable(LONG)
    assert around.readable(CAT) == CAT and LONG.startswith(read)
    assert read.count(" ") + 1 == 128, "whole words, 128 of them: those of the template do not count"


def test_a_batch_is_as_long_as_its_longest_prompt_if_asked(folder: Path) -> None:
    encoder = build(node(folder, to_length=False, masked=True))
    whole = build(node(folder, masked=True))([CAT, ODD])
    said = encoder([CAT, ODD])
    length = int(whole["text_mask"].sum(1).max())
    assert said["text"].shape[1] == length < 128
    assert torch.equal(said["text"], whole["text"][:, :length]) and whole["text"][:, length:].abs().max() == 0
    assert torch.equal(said["text_mask"], whole["text_mask"][:, :length])


def test_dtypes(folder: Path) -> None:
    assert build({**node(folder), "dtype": "bfloat16"})([CAT])["text"].dtype == torch.float32
    exact = build({**node(folder), "dtype": "float64"})([CAT])["text"]
    assert exact.dtype == torch.float64
    torch.testing.assert_close(build(node(folder))([CAT])["text"].double(), exact, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="dtype=int8"):
        build({**node(folder), "dtype": "int8"})


def test_half_a_character_is_read_as_a_prompt(folder: Path) -> None:
    said = build(node(folder))(["a \ud83d cat"])
    assert said["text"].isfinite().all() and said["text"].abs().sum() > 0
    assert not torch.equal(said["text"], build(node(folder))(["a dog"])["text"])


@pytest.mark.parametrize("kind", ["T5Tokenizer", "CLIPTokenizer"])
def test_tokenizers_of_older_folders_are_read(kind: str, tmp_path: Path) -> None:
    """Without a tokenizer.json: pieces of sentencepiece, or a vocabulary and merges."""
    said = {"tokenizer_class": f"{kind}Fast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if kind == "T5Tokenizer":
        pieces = pytest.importorskip("sentencepiece")
        model = io.BytesIO()
        pieces.SentencePieceTrainer.train(
            sentence_iterator=iter(PROMPTS), model_writer=model, vocab_size=70, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        (tmp_path / "spiece.model").write_bytes(model.getvalue())
        said["extra_ids"] = 0
        theirs = pieces.SentencePieceProcessor(model_proto=model.getvalue())
        wanted = [[*theirs.encode(prompt), 1] for prompt in PROMPTS]
    else:
        signs = [*"acnrstu", *(f"{sign}</w>" for sign in "acnrstu"), "</s>", "<pad>", "<unk>"]
        vocabulary = {sign: i for i, sign in enumerate(["<s>", *signs, "ru", "run", "runs</w>"])}
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        (tmp_path / "merges.txt").write_text("#version: 0.2\nr u\nru n\nrun s</w>\n")
        said["bos_token"] = "<s>"
        wanted = [[vocabulary[sign] for sign in ("<s>", "a</w>", "c", "a", "t</w>", "runs</w>", "</s>")]]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    made = encoders.load_tokenizer(tmp_path, "text.folder")
    for prompt, ids in zip(PROMPTS, wanted, strict=False):
        assert made(prompt)["input_ids"] == ids


def test_loading_says_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        build(node(folder))([CAT])
    out = capfd.readouterr()
    assert not out.out and not out.err and not caplog.records
