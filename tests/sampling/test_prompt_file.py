"""Prompt files as people write them: lists, tables, comments, byte order marks, and each way to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit.sampling.prompt_file import Line, read_prompt_file
from dit.sampling.request import Request, heard, requests

CSV = 'prompt,negative_prompt,seed\n"a red circle moves right, quickly",blurry,7\na blue bar,,\n"says ""hi""",,0\n'
JSONL = '{"prompt": "größer, 红色的圆", "seed": 3, "negative_prompt": "grey"}\n\n"a plain text"\n{"prompt": 5}\n'


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_text_is_a_prompt_a_line(tmp_path: Path, mark: bytes, newline: str) -> None:
    lines = ["# my prompts", "a red circle, quickly", "", "  null  ", "# another", "it's [odd]: ${seed} #7"]
    file = write(tmp_path, "prompts.txt", mark + newline.join(lines).encode())
    assert [line.prompt for line in read_prompt_file(file)] == [
        "a red circle, quickly",
        "null",
        "it's [odd]: ${seed} #7",
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_csv_is_a_table(tmp_path: Path, mark: bytes) -> None:
    assert read_prompt_file(write(tmp_path, "prompts.csv", mark + CSV.encode())) == [
        Line("a red circle moves right, quickly", "blurry", 7),
        Line("a blue bar"),
        Line('says "hi"', None, 0),
    ]


def test_jsonl_is_an_object_or_a_text_a_line(tmp_path: Path) -> None:
    assert read_prompt_file(write(tmp_path, "prompts.jsonl", JSONL)) == [
        Line("größer, 红色的圆", "grey", 3),
        Line("a plain text"),
        Line("5"),
    ]


def test_what_the_file_says_goes_before_what_the_command_line_says(tmp_path: Path) -> None:
    made = requests(None, str(write(tmp_path, "prompts.csv", CSV)), "dark", num_samples=2, seed=100)
    assert made[:2] == [Request("a red circle moves right, quickly", "blurry", seed) for seed in (7, 8)]
    assert made[2:4] == [Request("a blue bar", "dark", seed) for seed in (102, 103)]
    assert [each.seed for each in made[4:]] == [0, 1]


def test_columns_say_signals_and_those_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = "prompt,neg_prompt,motion,label\nx,y,0.5,red\nz,,,\n"
    rows = '{"prompt": "x", "motion": 0.5, "label": "red", "sead": 3}\n{"prompt": "z", "motion": null}'
    for name, content, motion in (("a.csv", table, "0.5"), ("a.jsonl", rows, 0.5)):
        file = str(write(tmp_path, name, content))
        wanted = requests(None, file, "", 2, 5, label="blue", signals={"motion": 1, "speed": 2})
        made = heard(wanted, ["label", "motion", "speed"])
        assert made[:2] == [Request("x", "", seed, "red", {"motion": motion, "speed": 2}) for seed in (5, 6)]
        assert made[2] == Request("z", "", 7, "blue", {"motion": 1, "speed": 2})
    assert "columns that are not used: neg_prompt (used: prompt, negative_prompt, seed, label, motion" in caplog.text
    assert "columns that are not used: sead" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "# nothing\n\n", "a.txt holds no prompt"),
        ("a.txt", "fine\nna\xefve".encode("latin-1"), "a.txt, line 2: byte 0xef is not UTF-8; save the file as UTF-8"),
        ("a.txt", "fine".encode("utf-16"), "a.txt, line 1: the file is UTF-16; save it as UTF-8"),
        ("a.txt", b"fine\nf\0i\0n\0", "a.txt, line 2: a zero byte"),
        ("a.csv", "a red circle\n", "a.csv, line 1: no column prompt; it has a red circle"),
        ("a.csv", "prompt,seed\na red circle, quickly,3\n", "a.csv, line 2: 3 cells under 2 columns; .* in quotes"),
        ("a.csv", "prompt,seed\nx,1\ny,-3\n", 'a.csv, line 3: seed "-3" is not a whole number from 0'),
        ("a.csv", "prompt,seed\nx,1.5\n", 'a.csv, line 2: seed "1.5"'),
        ("a.csv", "prompt,seed\nx,99999999999999999999\n", "seed .* is not a whole number"),
        ("a.csv", "prompt,seed,seed\nx,1,2\n", "two columns seed"),
        ("a.csv", 'prompt\n"x\n', "a.csv, line 2: unexpected end of data"),
        ("a.csv", "prompt\n", "holds no prompt"),
        ("a.jsonl", '"x"\n{"prompt": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"text": "x"}', 'a.jsonl, line 1: no "prompt" in it'),
        ("a.jsonl", '{"prompt": ["x"]}', "line 1: prompt is .* no text"),
        ("a.jsonl", '{"prompt": "x", "seed": true}', "line 1: seed true is not"),
        ("a.jsonl", '{"prompt": "x", "negative_prompt": 3}', "line 1: negative_prompt is 3, which is no text"),
    ],
)
def test_a_wrong_file_is_one_line_with_file_and_line(tmp_path: Path, name: str, content: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        read_prompt_file(write(tmp_path, name, content))
    assert "\n" not in str(error.value)
