"""The text around a prompt that a language model is shown, and how much of its beginning is left out again.

A template is built from a config. `around(prompt, tokenizer)` is the whole text; its first `crop` tokens are not handed
to the network; `special` says whether the tokenizer puts its own marks around the text (a chat's are in it already).
"""

from __future__ import annotations

from typing import Any, Protocol

from dit.config.limits import Natural

PROMPT = "{}"


class Template(Protocol):
    """What stands around a prompt."""

    crop: int
    special: bool

    def around(self, prompt: str, tokenizer: Any) -> str: ...


class Fixed:
    """A text with `{}` where the prompt goes.

    Args:
        text: the template. crop: tokens of it in front of the prompt, as the model's pipeline counts them.
    """

    special = True

    def __init__(self, text: str, crop: Natural) -> None:
        if text.count(PROMPT) != 1:
            raise ValueError(f"a template has one {PROMPT}, where the prompt goes; this one has {text.count(PROMPT)}")
        self.text, self.crop = text, crop

    def around(self, prompt: str, tokenizer: Any) -> str:
        return self.text.replace(PROMPT, prompt)


class Chat:
    """A conversation as the tokenizer's own chat template writes it: a system message and the prompt of a user.

    Args:
        system: the system message.
        typed: whether messages are lists of typed parts, as models that also read images have them.
        answer: whether the mark that opens the model's answer stands at the end.
        blank: what an empty prompt is.
        crop: tokens in front of the prompt, as the model's pipeline counts them; 0 leaves all.
    """

    special = False

    def __init__(self, system: str, typed: bool, answer: bool, blank: str, crop: Natural) -> None:
        self.system, self.typed, self.answer, self.blank, self.crop = system, typed, answer, blank, crop

    def around(self, prompt: str, tokenizer: Any) -> str:
        if tokenizer.chat_template is None:
            raise ValueError(f"the tokenizer in {tokenizer.name_or_path} has no chat template: fetch the model whole")
        said = [("system", self.system), ("user", prompt or self.blank)]
        messages = [{"role": role, "content": [{"type": "text", "text": t}] if self.typed else t} for role, t in said]
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=self.answer, add_vision_id=False
        )
