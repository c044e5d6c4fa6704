"""Texts on the command line are taken as the shell gave them: prompts, files, folders and names.

Hydra reads every `key=value` in a grammar of its own, in which commas, quotes, colons, brackets, `~`, `null`, `${...}`
and letters beyond ASCII mean something else or are errors. The values of the keys below are quoted before it sees them,
so that it gives them back unchanged. All other values (numbers, lists, choices, sweeps) are left to the grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

# Every key whose value is free text. `null` is one more text here.
TEXTS = frozenset({"prompt", "negative_prompt"})
# Every key whose value is a path or the name of something outside the config. `null` is none of them.
NAMES = frozenset(
    {
        *("name", "init_from", "lora_from", "resume_from", "ckpt", "low_noise_ckpt", "pretrained", "again"),
        *("prompt_file", "out"),
        *("image", "last_image", "video", "mask"),
        *(f"task.{key}" for key in ("image", "last_image", "video", "mask")),
        *("data.root", "data.manifest", "data.filter", "data.val_filter", "data.made_by", "data.shard_cache"),
        "data.cache",
        *("folders.text", "folders.codec", "folders.image"),
        *("text.folder", "signals.image.folder", "text_cache"),
        *("codec.folder", "codec.encoder", "codec.decoder"),
        *("logger.wandb.project", "logger.wandb.entity"),
    }
)
# Every mapping whose keys are the user's own: a key that is not there yet is no mistake, and needs no `+` in front.
OPEN = frozenset({"signals", "folders"})
# Every key whose value is a list of free texts: a JSON list, or one text without brackets.
LISTS = frozenset({"preview.prompts"})

SWEEPING = ("-m", "--multirun", "hydra.mode=MULTIRUN")
ARGUMENT = re.compile(r"(\+{0,2})([\w.]+)=(.*)", re.DOTALL)
CHOICE = re.compile(r"\s*choice\s*\(.*\)\s*", re.DOTALL)


def quoted(text: str) -> str:
    """`text` in Hydra's grammar, such that the composed config gives exactly it."""
    # OmegaConf looks up ${...} in what Hydra gives it; backslashes count there only in front of it.
    kept = re.sub(r"(\\*)\$\{", lambda found: 2 * found.group(1) + r"\${", text)
    return QuotedString(kept, Quote.single).with_quotes()


def check_braces(arguments: Sequence[str]) -> None:
    """Raises ValueError where a shell has turned `manifest=train-{000..031}.tar` into an argument for each shard, of
    which the last alone would count."""
    for key in ("data.manifest", "manifest"):
        shards = [each for each in arguments if each.startswith(f"{key}=") and each.endswith(".tar")]
        if len(shards) > 1:
            raise ValueError(
                f"{key} is given {len(shards)} times, from {shards[0]} to {shards[-1]}: the shell has expanded its"
                f" braces; put it in quotes, '{key}=train-{{000..031}}.tar'"
            )


def literal(arguments: Sequence[str]) -> list[str]:
    """Arguments of the command line for Hydra, the values of `TEXTS`, `NAMES` and `LISTS` quoted, keys of `OPEN` added.

    In a sweep (`-m`) such a key takes several values as `key=choice("a, b", c)`; `name=a,b` means two names, since a
    name holds no comma.
    """
    sweep = any(argument in SWEEPING for argument in arguments)
    return [_one(argument, sweep) for argument in arguments]


def _one(argument: str, sweep: bool) -> str:
    found = ARGUMENT.fullmatch(argument)
    if found is None:
        return argument
    prefix, key, value = found.groups()
    if key.rpartition(".")[0] in OPEN:
        return f"++{key}={quoted(value) if key in NAMES else value}"
    if key not in TEXTS | NAMES | LISTS or (key in NAMES and value == "null"):
        return argument
    if sweep and CHOICE.fullmatch(value):
        return f"{prefix}{key}={_choices(value)}"
    if key in LISTS:
        return f"{prefix}{key}={_list(value)}"
    if key == "name" and sweep:
        return f"{prefix}{key}={','.join(quoted(each) for each in value.split(','))}"
    return f"{prefix}{key}={quoted(value)}"


def _choices(value: str) -> str:
    """The texts of `choice(...)`, each quoted. Hydra would hand them to the jobs without their quotes."""
    try:
        texts = OverridesParser.create().parse_rule(value, "function").list
    except HydraException:
        return value  # which Hydra says once more, with the key
    return ",".join(quoted(getattr(text, "text", str(text))) for text in texts)


def _list(value: str) -> str:
    """A JSON list of texts, or one text, as a list in Hydra's grammar; any other list as it is."""
    if not value.lstrip().startswith("["):
        return f"[{quoted(value)}]"
    try:
        texts = json.loads(value)
    except ValueError:
        return value
    return f"[{','.join(map(quoted, texts))}]" if all(isinstance(text, str) for text in texts) else value
