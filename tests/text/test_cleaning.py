"""Prompts are cleaned as the pipelines of published models clean them."""

from __future__ import annotations

import random

import pytest

from dit.text.cleaning import Caption, LowerCase, Whitespace

pytest.importorskip("ftfy")
PIECES = [
    "a Cat", "  ", "\n\t", "schÃ¶n", "größer", "猫が走る", "ＷＩＤＥ", "&amp;quot;", "&quot;", "&amp;lt;b&amp;gt;",
    "<person>", "<b>bold</b>", "<script>x=1</script>", "<!-- note -->", "https://example.com/a-b_c?d=e", "www.site.org",
    "@nick", "10.0.0.1", "IMG_2034.png", "1920x1080", "jc6640vc", "6640vc231", "#123", "#12345", "1234567",
    "free shipping", "click on this", "page 12", "this-is-my-cute-cat-ok", "`quoted` «so»", "“a” ‘b’", "''two''",
    "a....b", "(round) [square] {curly} | / \\", "–—−", " . ", " : ", "3.5x4", "%20and+plus", "\\n", "12:34 ",
    "_end_", ".start", "©™®", "download free", "ends-",
]  # fmt: skip


def texts() -> list[str]:
    drawn = random.Random(0)
    return ["", *PIECES, *("".join(drawn.choices([*PIECES, " ", " "], k=8)) for _ in range(300))]


def test_whitespace_like_wan() -> None:
    wan = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan")
    clean = Whitespace()
    assert [clean(text) for text in texts()] == [wan.prompt_clean(text) for text in texts()]
    assert clean(" schÃ¶n &amp;amp; gut\n\n so ") == "schön & gut so"


def test_captions_like_latte() -> None:
    pytest.importorskip("bs4")
    latte = pytest.importorskip("diffusers.pipelines.latte.pipeline_latte").LattePipeline
    theirs, clean = latte.__new__(latte), Caption()
    for text in texts():
        assert clean(text) == latte._text_preprocessing(theirs, text, clean_caption=True)[0], repr(text)
    assert clean("A CAT  <b>runs</b> at https://example.com/x") == "a cat runs at"


def test_lower_case() -> None:
    assert LowerCase()("  A Cat ") == "a cat"
