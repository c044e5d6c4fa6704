"""Files of `torch.save`: read whole, or refused. A flipped bit would otherwise be loaded as another weight.

Such a file is a zip archive that keeps a checksum (CRC-32) of each record: of the pickled containers and of each
tensor. torch writes them and does not look at them when it reads. Looking takes about as long as reading the file from
memory (0.75 s a GB), and covers files that were written before.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch


class Damaged(ValueError):
    """A file that is cut short, has other bits than were written, or is no archive of torch's."""


def load(file: Path) -> Any:
    """The content of a file, mapped into memory (what is not used is not read again), its containers plain ones.

    Raises:
        FileNotFoundError: it is not there.
        Damaged: it is not what was written.
    """
    if (why := damage(file)) is not None:
        raise Damaged(why)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError:  # torch advises to run whatever the file holds, with weights_only=False
        raise Damaged("it holds other things than tensors and plain values") from None
    except Exception as error:  # torch raises zip, runtime and OS errors
        raise Damaged(_first_line(error)) from None


def damage(file: Path) -> str | None:
    """What is wrong with the bytes of a file, in a few words; None if all are as they were written.

    Raises FileNotFoundError when it is not there.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            if packed:  # which torch never does, and which could grow without end
                return f"its record {packed[0]} is compressed"
            wrong = archive.testzip()
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile has no common class for what a flipped bit of a header can lead to
        return _first_line(error)
    return None if wrong is None else f"bits of its record {wrong} have changed since it was written"


def _first_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first[:80].rstrip(". ")
