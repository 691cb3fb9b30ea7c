"""Where the images of a run come from: the splits of `data.train` and `data.test`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from diffmix.config import DataConfig
from diffmix.datasets import readers
from diffmix.datasets.account import Left, by_reason, printable
from diffmix.datasets.raw import Raw, Source, Unlabeled
from diffmix.errors import UserError
from diffmix.files.remote_tree import here
from diffmix.storage import local_path

_WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(kw_only=True)
class Sources:
    """The splits that a run uses, and what is left out."""

    raws: dict[str, Raw] = field(default_factory=dict)
    """`train`, and `val` and `test` if the data sets bring them."""
    taken: dict[str, str] = field(default_factory=dict)
    """What each was taken from."""
    ignored: dict[str, Left] = field(default_factory=dict)
    """By reason."""
    notes: list[str] = field(default_factory=list)

    def add(self, source: Source, used: set[str]) -> None:
        """Note what a source leaves out, and count the splits of it that are not used."""
        self.notes += source.notes
        for why, left in by_reason(source.ignored).items():
            before = self.ignored.get(why, Left(count=0, names=[]))
            self.ignored[why] = Left(
                count=before.count + left.count, names=[*before.names, *left.names]
            )
        for name in source.splits.keys() - used:
            self.leave(f"in an unused {_WORDS[name]} split", source, name)

    def leave(self, why: str, source: Source, split: str) -> None:
        """Count a split as ignored. What cannot be counted is said."""
        try:
            count = source.splits[split].count()
        except UserError as error:
            self.notes.append(f"{source.splits[split].taken_from}: not counted, {error}")
            return
        self.ignored[why] = Left(count=count, names=[source.splits[split].taken_from])

    def take(self, split: str, spec: str, source: Source, name: str) -> None:
        """Use a split of a source. Its labels are read."""
        raw = source.splits[name].read()
        self.raws[split] = raw
        self.taken[split] = f"{spec}, {source.splits[name].taken_from}"
        self.notes += raw.notes


def find_sources(config: DataConfig, out: str) -> Sources:
    """The splits that the configuration names: its own test and validation images, or those of
    `data.test`. Validation images alone are the test set.

    The run folder `out` and the folder of the test images are left out where they lie among the
    training images. Raises `UserError` for what cannot be used.
    """
    if not config.train:
        raise UserError(
            "--data.train is missing; give it a folder with one sub-folder per class, a Parquet "
            "file, a hub id, or nano."
        )
    found = Sources()
    own = readers.find(here(config.train), config, _real_paths(local_path(out), config.test))
    found.take("train", config.train, own, "train")
    held_out = [name for name in ("test", "val") if name in own.splits]
    if config.test is not None:
        held_out = [name for name in held_out if name != "test"]
        other = readers.find(here(config.test), config, _real_paths(local_path(out)), for_test=True)
        chosen = next((name for name in ("test", "val", "train") if name in other.splits), None)
        if chosen is None:
            raise UserError(f"{config.test} has no images; give another --data.test.")
        found.take("test", config.test, other, chosen)
        found.add(other, {chosen})
    used = {"train"}
    for name in held_out:
        try:
            found.take("val" if "test" in found.raws else "test", config.train, own, name)
        except Unlabeled:
            found.leave(f"in a {_WORDS[name]} split without labels", own, name)
            found.notes.append(
                f"{own.splits[name].taken_from} of {config.train} has no labels, so its "
                f"{own.splits[name].count()} images are left alone"
            )
        used.add(name)
    found.add(own, used)
    if "test" not in found.raws and config.test_fraction == 0:
        raise UserError(
            f"{config.train} has no test images and --data.test_fraction is 0; raise it or give "
            "--data.test."
        )
    class_names = found.raws["train"].class_names
    if len(class_names) < 2:
        where = printable(found.raws["train"].where)
        raise UserError(
            f"{where} has only the class {class_names[0]!r}; at least two classes are needed."
            if class_names
            else f"{where} has no images."
        )
    return found


def _real_paths(*paths: str | None) -> tuple[str, ...]:
    return tuple(os.path.realpath(os.path.expanduser(path)) for path in paths if path)
