"""Options of the group `compose`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ComposeConfig:
    """`diffmix compose`: several sets of mixes into one, in OUT/mixes, which `diffmix train` then
    takes as it is.
    """

    stores: tuple[str, ...] = ()
    """What to put together: run folders, mix stores, and folders in the layouts of `export.format`,
    the reference implementation's among them. Classes are matched by name to those of `data.train`,
    or else of the first store.
    """
    share: tuple[float, ...] = ()
    """Share of each one's mixes to take, drawn by `run.seed` (0 to 1]: one number for all, or one
    for each. Empty: all.
    """
    count: tuple[int, ...] = ()
    """Number of each one's mixes to take instead: one for all, or one for each. Empty: `share`
    decides.
    """
