"""What trackers are told of a run: figures by name and step, and images of mixes at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from diffmix.config import Config, to_dict
from diffmix.datasets.class_names import spoken
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.mixing.store import MixStore

MOST_IMAGES = 16


class Figure(NamedTuple):
    """One figure. All trackers get the same names."""

    name: str
    value: float
    step: int
    """Step of personalization, epochs done, or mixes made."""


class Figures:
    """Turns events into figures. Owned by one tracker."""

    def __init__(self) -> None:
        self._made = 0

    def of(self, events: list[dict]) -> Iterator[Figure]:
        """The figures of new events, in their order."""
        for event in events:
            kind = event["event"]
            if kind == "plan":
                self._made = event["stored"]
            elif kind == "personalize_step":
                yield Figure("personalize/loss", event["loss"], event["step"])
            elif kind == "mix":
                self._made += event["mixes"]
                yield Figure("mix/made", self._made, self._made)
                seconds = event["end"] - event["start"]
                if seconds > 0:
                    rate = event["mixes"] / seconds
                    yield Figure("mix/per_mixer_and_second", rate, self._made)
            elif kind in ("train", "baseline"):
                if event["rank"] == 0:
                    yield from _epoch(kind, event)
            elif kind == "validation":
                name = f"{event['phase']}/validation_top1"
                yield Figure(name, event["top1"], event["epoch"] + 1)
            elif kind == "result":
                for arm in ("train", "baseline"):
                    if event.get(arm) is not None:
                        yield Figure(f"{arm}/test_top1", event[arm], 0)


def _epoch(kind: str, event: dict) -> Iterator[Figure]:
    """Of rank 0: all ranks are alike, and a line for each would hide that."""
    step, seconds = event["epoch"] + 1, event["end"] - event["start"]
    yield Figure(f"{kind}/loss", event["loss"], step)
    if seconds > 0:
        yield Figure(f"{kind}/data_wait", event["wait"] / seconds, step)
        yield Figure(f"{kind}/images_per_second", event["images"] / seconds, step)
    if kind == "train":
        yield Figure("train/mixes_available", event["pool"], step)
        if event["images"]:
            yield Figure("train/synthetic_share", event["synthetic"] / event["images"], step)


def options(config: Config) -> dict[str, str | int | float | bool]:
    """The configuration by dotted name. Lists and None are texts."""
    found: dict[str, str | int | float | bool] = {}
    for group, values in to_dict(config).items():
        pairs = {group: values}
        if isinstance(values, dict):
            pairs = {f"{group}.{name}": value for name, value in values.items()}
        for name, value in pairs.items():
            plain = isinstance(value, (str, int, float, bool))
            found[name] = value if plain else str(value)
    return found


class ShownImage(NamedTuple):
    """A mix as a tracker shows it."""

    caption: str
    file: bytes
    """Encoded."""


def mixes(out: Folder) -> list[ShownImage]:
    """A few of the run folder's accepted mixes, evenly spaced; none where there are none."""
    store = MixStore((out / "mixes").uri)
    chunks = sorted(store.stored_chunks())
    if not chunks:
        return []
    try:
        names = [spoken(name) for name in store.class_names]
    except UserError:
        return []
    found: list[ShownImage] = []
    few = np.linspace(0, len(chunks) - 1, min(len(chunks), MOST_IMAGES)).round().astype(int)
    for place in few:
        rows = [row for row in store.read(chunks[place]).to_pylist() if row["accepted"]]
        for row in rows[: -(-MOST_IMAGES // len(few))]:
            source, target = names[row["source_label"]], names[row["target_label"]]
            caption = f"mix {row['mix_id']}: {source} → {target}, strength {row['strength']:.2g}"
            found.append(ShownImage(caption, row["image"]))
    return found[:MOST_IMAGES]
