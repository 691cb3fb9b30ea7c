"""Options of the group `compose`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval
from pydantic import PositiveInt

from diffmix.options.markers import Path, Unit, Usual


@dataclass(frozen=True, kw_only=True)
class ComposeConfig:
    """Which mixes `diffmix compose` puts together."""

    stores: Usual[tuple[Path, ...]] = ()
    """Run folders, mix stores, and folders in a layout of `export.format`. Classes are matched by
    name to those of `data.train`; without it, to those of the first store.
    """
    share: Usual[tuple[Annotated[float, Interval(gt=0, le=1)], ...]] = ()
    """Share of each store's mixes to take: one for all, or one for each store. Which mixes are
    taken depends on `run.seed`. Empty: all mixes.
    """
    count: Usual[Annotated[tuple[PositiveInt, ...], Unit("mixes")]] = ()
    """Number of each store's mixes to take: one for all, or one for each store. Empty: `share`
    decides.
    """
