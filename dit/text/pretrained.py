"""Text encoders of published models: from prompts to what their networks were trained to read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from dit.encoders import fingerprint as fingerprint_of
from dit.encoders import load_encoder, picture_name
from dit.feature_store import FeatureStore
from dit.text.base import TextEncoder
from dit.text.parts import KEY, Part, Pooled, Row, Tokens
from dit.text.pictured import PicturedTokens

log = logging.getLogger(__name__)
Rows = dict[str, Row]  # of one prompt, by part
Asked = str | tuple[str, Tensor]  # a prompt, or one with the picture that a clip begins with, uint8 (3, h, w)


class Shelf(Protocol):
    """Where tensors of prompts are found, as a `FeatureStore` keeps them: those of a latent cache (`data/latents`)."""

    def holds(self, prompt: str) -> bool: ...

    def read(self, prompt: str) -> dict[str, Tensor] | None: ...


class Pretrained(TextEncoder):
    """The text encoder of a published model, or several together, out of its folder. It is not trained.

    It holds no weights of its own: a model of transformers is loaded when a prompt is to be encoded, stays beside this
    module on its device, and goes with `release`. So no checkpoint holds it; the config names its folder and the
    fingerprint of the files. What it says of a prompt can be kept: for this process (`remember`), or on disk
    (`keep_in`). Prompts are encoded one by one, so that their features do not depend on the company.

    Args:
        folder: of the published model, in diffusers' layout: a path, or `hub:ORG/NAME[@REVISION]` in the hub's cache.
        fingerprint: that the files must have, which a run writes into its config; None: any.
        dtype: of the weights while it computes; None: as they were saved. What comes out is float32 at least.
        parts: what it says of a prompt, by name: `Tokens`, and `Pooled` where the network reads a vector too.

    `sees_pictures` says whether a prompt comes with the picture that the clip begins with (`PicturedTokens`).

    Raises:
        FileNotFoundError, ValueError: in one line; no such folder, no known class, other files than the fingerprint's.
    """

    place: Tensor

    def __init__(
        self,
        folder: str | None,
        fingerprint: str | None,
        dtype: Literal["bfloat16", "float16", "float32", "float64"] | None,
        parts: Mapping[str, Callable[[str | None], Part]],
    ) -> None:
        super().__init__()
        self.folder = folder
        self.dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
        self.parts = {name: part(folder) for name, part in parts.items()}
        self.width = self._only(Tokens).width
        self.pooled_width = self._only(Pooled).width if self._several(Pooled) else None
        self.sees_pictures = isinstance(self._only(Tokens), PicturedTokens)
        self.away_as_long: bool = self._only(Tokens).away_as_long
        self.register_buffer("place", torch.empty(0), persistent=False)  # says where to compute
        self.models: dict[str, nn.Module] = {}  # no modules of this one: they are in no state dict
        self.remembered: dict[str, Rows] = {}
        self.store: FeatureStore | None = None
        self.shelf: Shelf | None = None  # another place where it is kept, which is only read
        self.has_cut = False
        self.fingerprint = fingerprint or ""
        if fingerprint is not None and (found := self._fingerprint()) != fingerprint:
            raise ValueError(
                f"{KEY}={folder} is not the text encoder that this was trained with: its files have the fingerprint"
                f" {found}, needed {fingerprint}"
            )

    @property
    def makes(self) -> tuple[str, ...]:
        return tuple(entry for part in self.parts.values() for entry in part.makes)

    def _several(self, kind: type[Part]) -> list[Any]:
        return [part for part in self.parts.values() if isinstance(part, kind)]

    def _only(self, kind: type[Part]) -> Any:
        found = self._several(kind)
        if len(found) != 1:
            raise ValueError(f"text.parts holds {len(found)} of {kind.__name__}, and there is to be one")
        return found[0]

    def _fingerprint(self) -> str:
        return fingerprint_of(list(dict.fromkeys(file for part in self.parts.values() for file in part.files())))

    def identified(self) -> str:
        """The fingerprint of its files, for the config."""
        self.fingerprint = self.fingerprint or self._fingerprint()
        return self.fingerprint

    @property
    def mark(self) -> str:
        """A fingerprint of all that decides what it says of a prompt: files and settings."""
        said = [self.identified(), str(self.dtype), *(f"{name}: {described(p)}" for name, p in self.parts.items())]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]

    def keep_in(self, folder: str | Path) -> None:
        """Keeps what it says of prompts on disk from here on, and takes from there what it has said before."""
        self.store = FeatureStore(Path(folder), self.mark)

    # -- prompts

    def forward(self, prompts: Sequence[Asked]) -> dict[str, Tensor]:
        names = [name_of(asked) for asked in prompts]
        found = self._found(dict(zip(names, prompts, strict=True)))
        return self._joined([found[name] for name in names])

    def remember(self, prompts: Sequence[Asked]) -> None:
        """Encodes prompts that are asked for later, keeps what it says of them in this machine's memory until others
        are named, and lets go of the models, one after another: the device holds one at a time."""
        named = {name_of(asked): asked for asked in prompts}
        self.remembered = {name: rows for name, rows in self.remembered.items() if name in named}
        self.remembered = self._found(named, ahead=True)
        self.release()

    def fill(self, prompts: Sequence[str]) -> int:
        """Encodes prompts that are not on disk yet (`keep_in`), and keeps them there alone; returns how many."""
        assert self.store is not None, "keep_in says where"
        new = [prompt for prompt in dict.fromkeys(prompts) if not self.is_kept(prompt)]
        self._found({prompt: prompt for prompt in new})
        return len(new)

    def is_kept(self, name: str) -> bool:
        """Whether what it says of a prompt is on disk."""
        if self.store is not None and self.store.file(name).is_file():
            return True
        return self.shelf is not None and self.shelf.holds(name)

    def tensors(self, prompts: Sequence[str]) -> list[dict[str, Tensor]]:
        """What it says of each prompt, as it is kept on disk, on the CPU."""
        found = self._found({prompt: prompt for prompt in prompts})
        rows = ({name: tensor.cpu() for name, tensor in _flat(found[prompt]).items()} for prompt in prompts)
        return list(rows)

    def knows(self, prompts: Sequence[Asked]) -> bool:
        """Whether all of these are remembered."""
        return all(name_of(asked) in self.remembered for asked in prompts)

    def check(self, prompts: Sequence[Asked]) -> None:
        """Raises FileNotFoundError or ValueError, in one line, for files that are missing or damaged, if a model will
        be needed for these."""
        named = {name_of(asked) for asked in prompts} - self.remembered.keys()
        kept = {name for name in named if self.is_kept(name)}
        for part in self.parts.values() if named - kept else ():
            part.check()

    def release(self) -> None:
        """Lets go of the models: the next prompt that is not known loads them again."""
        self.models.clear()
        if self.place.device.type == "cuda":
            torch.cuda.empty_cache()

    def shapes(self, prompt: str) -> dict[str, Tensor]:
        return self._joined([{name: part.shapes() for name, part in self.parts.items()}])

    def _joined(self, rows: Sequence[Rows]) -> dict[str, Tensor]:
        device = self.place.device
        cond: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            own = [row[name] for row in rows]
            floats = (tensor.dtype for row in own for tensor in row.values() if tensor.is_floating_point())
            cond |= part.joined(own, device, reduce(torch.promote_types, floats, torch.float32))
        return cond

    def _found(self, named: Mapping[str, Asked], ahead: bool = False) -> dict[str, Rows]:
        """What is said of each prompt, by its name: remembered, on disk, or by the models.

        ahead: whether it is for later: then it comes to the CPU, and each model goes when it is done.
        """
        found: dict[str, Rows] = {name: self.remembered.get(name, {}) for name in named}
        places: tuple[FeatureStore | Shelf | None, ...] = (self.store, self.shelf)
        for place in places:
            if place is not None:
                found |= {name: _by_part(place.read(name)) for name, rows in found.items() if not rows}
        new = [name for name, rows in found.items() if not rows]
        self._say_cut([_split(named[name])[0] for name in new])
        for part in self.parts if new else ():
            for name in tqdm(new, part, unit="prompt", delay=2.0, disable=not ahead, leave=False):
                row = self._row(part, *_split(named[name]))
                found[name][part] = {key: tensor.cpu() for key, tensor in row.items()} if ahead else row
            if ahead:
                del self.models[part]
        if self.store is not None:
            for name in new:
                self.store.write(name, _flat(found[name]))
        return found

    @torch.no_grad()
    def _row(self, name: str, prompt: str, picture: Tensor | None) -> Row:
        part = self.parts[name]
        if name not in self.models:
            self.models[name] = load_encoder(part.encoder, self.dtype, KEY).to(self.place.device)
        with torch.autocast(self.place.device.type, enabled=False):  # the precision is that of `dtype`
            return part.row(self.models[name], prompt, picture)

    # -- lengths

    def readable(self, prompt: str) -> str:
        return min((part.read(prompt) for part in self._several(Tokens)), key=len)

    @property
    def longer(self) -> str:
        return f"put what matters first: it reads {self._only(Tokens).length} tokens"

    def _say_cut(self, prompts: Sequence[str]) -> None:
        if self.has_cut:
            return
        cut = [(prompt, read) for prompt in prompts if (read := self.readable(prompt)) != prompt]
        if cut:
            self.has_cut = True
            (prompt, read), length = cut[0], self._only(Tokens).length
            log.warning(
                "%d of %d prompts are longer than the %d tokens that the text encoder reads, and only the beginning of"
                " these is: of %r what ends with %r",
                len(cut), len(prompts), length, prompt if len(prompt) < 40 else f"{prompt[:40]}...", read[-30:],
            )  # fmt: skip

    # -- devices

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Models that are loaded go where this module goes."""
        super()._apply(fn, recurse)
        for model in self.models.values():
            model._apply(fn)
        return self


def name_of(asked: Asked) -> str:
    """The prompt, and what tells its picture from others."""
    prompt, picture = _split(asked)
    return prompt if picture is None else f"{prompt}\0{picture_name(picture)}"


def _split(asked: Asked) -> tuple[str, Tensor | None]:
    return (asked, None) if isinstance(asked, str) else asked


def described(thing: Any) -> str:
    """A part, or what it was built of, as a text that is equal for equal settings."""
    if isinstance(thing, Path):
        return repr(thing.name)  # the fingerprint is of what is in it
    if isinstance(thing, (str, int, float, bool, type(None))):
        return repr(thing)
    said = {
        key: described(value)
        for key, value in sorted(vars(thing).items())
        if key not in ("config", "tokenizer", "processor")
    }
    return f"{type(thing).__name__}({', '.join(f'{key}={value}' for key, value in said.items())})"


def _flat(rows: Rows) -> dict[str, Tensor]:
    """Rows by part as tensors by one name each."""
    return {f"{part}.{key}": each for part, row in rows.items() for key, each in row.items()}


def _by_part(tensors: Mapping[str, Tensor] | None) -> Rows:
    """`_flat` undone."""
    rows: Rows = {}
    for key, tensor in (tensors or {}).items():
        name, _, entry = key.rpartition(".")
        rows.setdefault(name, {})[entry] = tensor
    return rows
