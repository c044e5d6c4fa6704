"""A clip that cannot be read is replaced by another one of the same data, chosen by (index, epoch) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from data.batch import Item, Skipped
from data.decode import BadClip, BadClips, listing

ATTEMPTS = 20  # stand-ins tried for one unreadable clip before the data as a whole counts as unreadable


def first_readable(
    index: int,
    epoch: int,
    name: Callable[[int], str],
    read: Callable[[int], Item],
    others: Callable[[], Sequence[int]],
) -> Item:
    """What `read(index)` gives, or a stand-in; those that could not be read travel along in the item's `skipped`.

    Nothing is remembered between calls: what a worker has met before cannot change what it returns, and memory does not
    grow.

    Args:
        name: of a clip, by its index. others: which clips may stand in.

    Raises:
        BadClips: the clip and all stand-ins tried are unreadable.
    """
    skipped: dict[str, str] = {}
    for attempt in range(ATTEMPTS):
        if (id := name(index)) not in skipped:
            try:
                item = read(index)
                item["skipped"] = tuple(Skipped(id, why) for id, why in skipped.items())
                return item
            except BadClip as error:
                skipped[id] = error.why
        among = others()
        index = int(among[int(np.random.SeedSequence([index, epoch, attempt]).generate_state(1)[0]) % len(among)])
    raise BadClips(
        f"none of {len(skipped)} clips tried, out of {len(others())}, can be used: {listing(skipped)}; "
        "scripts/validate_data.py checks them all"
    )
