"""What is done to a prompt before it becomes tokens, as the pipelines of published models do it.

A cleaning is `cleaning(prompt) -> prompt`, built from a config. ftfy mends text that was decoded wrongly ("schÃ¶n").
"""

from __future__ import annotations

import html
import re
from typing import Protocol
from urllib.parse import unquote_plus

from dit.folders import needed

URL_ENDINGS = r"[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"
FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
DASHES = "\\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0\ufe31\ufe32"
DASHES += "\ufe58\ufe63\uff0d"

# Patterns and what stands in their place, in order, around the steps that are no patterns.
Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), new) for pattern, new in pairs)


BEFORE_MARKUP = _rules(
    ("<person>", "person"),
    (rf"\b((?:https?:(?:\/{{1,3}}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+{URL_ENDINGS}))", ""),
    (rf"\b((?:www:(?:\/{{1,3}}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+{URL_ENDINGS}))", ""),
)
AFTER_MARKUP = _rules(
    (r"@[\w\d]+\b", ""),  # @nickname
    ("[\u31c0-\u9fff]+", ""),  # Chinese, Japanese and Korean signs
    (rf"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # addresses of machines
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"[\S]+\.(?:{FILES})", ""),
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\/\*]+", " "),
    (r"\s+\.\s+", " "),
)
JOINERS = re.compile(r"[-_]")
AFTER_MENDING = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # numbers of articles
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),  # words of shops
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FILES})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # 1920x1080
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
)


class Cleaning(Protocol):
    """A prompt, cleaned."""

    def __call__(self, prompt: str) -> str: ...


class Whitespace:
    """Mended, entities of HTML as what they stand for, one space for any white space (Wan, SkyReels-V2)."""

    def __call__(self, prompt: str) -> str:
        text = html.unescape(html.unescape(needed("ftfy", "text cleaning").fix_text(prompt)))
        return " ".join(text.split())


class LowerCase:
    """Lower case without white space around it."""

    def __call__(self, prompt: str) -> str:
        return prompt.lower().strip()


class Caption:
    """As captions from the web were cleaned for DeepFloyd IF and PixArt, whose rules Latte and Allegro keep: lower case
    without addresses, markup, numbers of articles and words of shops. Chinese, Japanese and Korean signs go too.

    Applied twice, as there: what the first round leaves may be something to take away.
    """

    def __call__(self, prompt: str) -> str:
        return self._once(self._once(prompt))

    def _once(self, text: str) -> str:
        text = _replaced(unquote_plus(text).strip().lower(), BEFORE_MARKUP)
        text = needed("bs4", "text cleaning").BeautifulSoup(text, features="html.parser").text
        text = _replaced(text, AFTER_MARKUP)
        if len(JOINERS.findall(text)) > 3:  # this-is-my-cute-cat
            text = JOINERS.sub(" ", text)
        text = html.unescape(html.unescape(needed("ftfy", "text cleaning").fix_text(text)))
        return _replaced(text, AFTER_MENDING).strip()


def _replaced(text: str, rules: Rules) -> str:
    for pattern, new in rules:
        text = pattern.sub(new, text)
    return text
