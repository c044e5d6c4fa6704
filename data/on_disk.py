"""How libraries are told where a file lies."""

from __future__ import annotations

import os
from pathlib import Path


def on_disk(path: str | os.PathLike[str]) -> str:
    """The absolute path of a file, for whatever opens it by FFmpeg, to read or to write.

    FFmpeg takes a name that begins as an address does for one: it asks the network for `http:/host/clip.mp4`, though a
    folder of that name is here. An absolute path is none of its addresses.
    """
    return str(Path(path).absolute())
