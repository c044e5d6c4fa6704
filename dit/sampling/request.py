"""What a command line asks for: prompts, seeds, and where the samples go."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dit.checkpoint.files import FOLDER
from dit.checkpoint.opened import find
from dit.runfiles import check_links
from dit.sampling.prompt_file import COLUMNS, read_prompt_file

log = logging.getLogger(__name__)
SAMPLES = "samples"
REQUEST = "request.json"  # in each folder of samples: what was asked for


@dataclass(frozen=True)
class Request:
    """One sample that is asked for.

    negative_prompt: None is the model's own. signals: what else is said of it, by name. columns: what a table of
    prompts holds beside that (`heard`).
    """

    prompt: str | int
    negative_prompt: str | None
    seed: int
    label: str | int | None = None  # a class, for networks that read one beside a text
    signals: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)


def requests(
    prompt: str | int | None,
    prompt_file: str | None,
    negative_prompt: str | None,
    num_samples: int,
    seed: int,
    label: str | int | None = None,
    signals: Mapping[str, Any] | None = None,
) -> list[Request]:
    """`num_samples` samples for each prompt, under the seeds `seed`, `seed + 1`, ...

    Args:
        prompt: one prompt; None without a prompt file is the empty one.
        prompt_file: prompts from a file (`prompt_file.py`). A seed that stands there is that of the prompt's first
            sample, and its others take the following ones; a negative prompt there goes before `negative_prompt`.
        signals: what else is said of all samples, by name; what a prompt file says goes before.

    Raises:
        FileNotFoundError: no such file. ValueError: both are given, no prompt in the file, no samples.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1")
    if prompt_file is None:
        text = "" if prompt is None else prompt
        return [Request(text, negative_prompt, seed + i, label, signals or {}) for i in range(num_samples)]
    if prompt is not None:
        raise ValueError(f"prompt={prompt!r} and prompt_file={prompt_file} are both given; leave one out")
    made = []
    for number, line in enumerate(read_prompt_file(prompt_file)):
        first = seed + number * num_samples if line.seed is None else line.seed
        negative = negative_prompt if line.negative_prompt is None else line.negative_prompt
        one = Request(line.prompt, negative, first, label, signals or {}, line.more)
        made += [replace(one, seed=first + i) for i in range(num_samples)]
    return made


def heard(wanted: Sequence[Request], known: Collection[str]) -> list[Request]:
    """The requests with their columns moved to `signals` where those are `known`; a warning names other columns."""
    unused = dict.fromkeys(name for each in wanted for name in each.columns if name not in known)
    if unused:
        used = ", ".join((*COLUMNS, *known))
        log.warning("the prompt file has columns that are not used: %s (used: %s)", ", ".join(unused), used)
    made = []
    for each in wanted:
        said = {name: value for name, value in each.columns.items() if name in known}
        label = said.pop("label", each.label)
        made.append(replace(each, label=label, signals={**each.signals, **said}, columns={}))
    return made


def take_folder(
    out: str | None,
    run_or_file: str | None,
    facts: Sequence[Mapping[str, Any]],
    *,
    mark: str = "",
    under: str = SAMPLES,
) -> Path:
    """Makes the folder of a set of samples, for this command alone: `out`, or the next `samples/NNN` of the run; of no
    run, where the command is given.

    Args:
        facts: how each sample is made. An `out` that holds samples is taken when it was begun with the same: a command
            that was stopped goes on when it is given again.
        mark: whose samples they are. With one, a folder of the run that was begun with the same facts and mark is taken
            again, and no next one made.
        under: the folder of the run, in place of `samples`.

    Raises:
        ValueError: `out` is a file, or holds something else; a link in the run leads out of where samples go.
    """
    said = hashlib.sha256(mark.encode() + json.dumps(list(facts), sort_keys=True).encode()).hexdigest()
    if out is None:
        parent = home(run_or_file) / under
        if run_or_file is not None:  # which may be a stranger's
            check_links(parent.parent, under)
        if mark and (there := _begun(parent, said)) is not None:
            return there
        parent.mkdir(parents=True, exist_ok=True)
        folder = _next(parent)
    else:
        folder = Path(out)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"out={out} is a file; give a folder that is not there yet")
        folder.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in folder.iterdir() if entry.name != REQUEST]
        begun = (folder / REQUEST).is_file()
        if begun:
            check_links(folder)
        if others and not begun:
            raise ValueError(
                f"out={out} holds {sorted(others)[0]}: old files would lie beside new ones; give another out="
            )
    try:
        with (folder / REQUEST).open("x", encoding="utf-8") as opened:
            opened.write(json.dumps({"samples": len(facts), "sha256": said}) + "\n")
    except FileExistsError:
        if said not in (folder / REQUEST).read_text(encoding="utf-8"):
            raise ValueError(f"out={out} holds samples of another request; give another out=") from None
    return folder


@contextmanager
def kept_if_used(folder: Path) -> Iterator[None]:
    """A folder that was taken goes again where nothing can be written into it: what fails leaves nothing."""
    try:
        yield
    except Exception:
        with suppress(OSError):
            if [entry.name for entry in folder.iterdir()] == [REQUEST]:
                (folder / REQUEST).unlink()
                folder.rmdir()
                if folder.name.isdecimal():  # which was numbered, `samples/001`
                    folder.parent.rmdir()
        raise


def home(run_or_file: str | None) -> Path:
    """The run directory that a run, its checkpoint, or the JSON of its sample is in; else where the file lies."""
    if run_or_file is None:
        return Path()
    file = find(run_or_file)
    if file.parent.name == FOLDER:  # a checkpoint of a run
        return file.parent.parent
    if file.parent.parent.name == SAMPLES:  # the JSON of a sample
        return file.parent.parent.parent
    return file.parent


def _begun(parent: Path, said: str) -> Path | None:
    """The folder in which the same was begun, the first one of several."""
    for file in sorted(parent.glob(f"*/{REQUEST}")):
        with suppress(OSError):
            if said in file.read_text(encoding="utf-8", errors="replace"):
                return file.parent
    return None


def _next(samples: Path) -> Path:
    """A numbered folder of its own: whoever makes it has it."""
    taken = [int(folder.name) for folder in samples.glob("*") if folder.name.isdecimal()]
    number = max(taken, default=0) + 1
    while True:
        try:
            (samples / f"{number:03d}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return samples / f"{number:03d}"
