"""A classifier that a limit has cut short of mixes: it counts as finished while no more mixes come,
and another is trained once there are more.
"""

from __future__ import annotations

from collections.abc import Callable

from diffmix.storage import Folder

_CUT = "cut"


def recipe_key(
    best_of: Callable[[str], Folder],
    key_of: Callable[[dict], str],
    identity: dict,
    stored: int,
    more_come: bool,
) -> str:
    """The key of the folder that a recipe's classifier belongs in.

    `best_of` gives the folder of a key, `key_of` the key of an identity. `stored` is the number of
    stored chunks, and `more_come` whether this run adds to them.
    """
    key = key_of(identity)
    while best_of(key).exists(_CUT):
        had = int(best_of(key).read(_CUT))
        if stored <= had and not more_come:
            return key
        identity = {**identity, "after_cut": had}
        key = key_of(identity)
    return key


def mark_cut(best: Folder, stored: int) -> None:
    """Note that a classifier was trained on so many chunks because of a limit."""
    best.write(_CUT, str(stored).encode())
