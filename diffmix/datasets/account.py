"""What became of the files and images of a data set: used, ignored or unreadable."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

_NAMED = 20
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Left:
    """Files that were left out for one reason."""

    count: int
    names: list[str]
    """The first of them."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Counts that add up: used + ignored + unreadable = found."""

    splits: dict[str, str]
    """`train`, `val` and `test`: what each was taken from."""
    found: int
    """Files and rows that lie in the data set."""
    used: int
    """Images in the training, validation and test set, each counted once."""
    ignored: dict[str, Left]
    """By reason."""
    unreadable: dict[str, Left]
    """By reason."""
    notes: list[str]
    """What else the user should know: sentences without a full stop."""

    def to_json(self) -> dict:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> Account:
        """What `to_json` gave."""
        left = {}
        for name in ("ignored", "unreadable"):
            left[name] = {why: Left(**each) for why, each in values[name].items()}
        return cls(**{**values, **left})

    def lines(self) -> list[str]:
        """What `diffmix plan` prints."""
        lines = [f"{_WORDS[split]}: {printable(where)}" for split, where in self.splits.items()]
        lines.append(f"images used: {self.used} of {self.found} files and rows")
        for what, left in (("ignored", self.ignored), ("unreadable", self.unreadable)):
            total = sum(each.count for each in left.values())
            lines.append(f"{what}: {total}")
            lines += [
                f"  {each.count} {printable(why)}: {_some(each)}" for why, each in left.items()
            ]
        return [*lines, *(f"note: {printable(note)}" for note in self.notes)]


_WORDS = {"train": "training images", "val": "validation images", "test": "test images"}


def left(names: Iterable[str]) -> Left:
    """Files that were left out, of which the first are kept by name."""
    names = sorted(names)
    return Left(count=len(names), names=names[:_NAMED])


def by_reason(ignored: dict[str, list[str]]) -> dict[str, Left]:
    """Reason -> what was left out for it, the most frequent first."""
    found = {why: left(names) for why, names in ignored.items() if names}
    return dict(sorted(found.items(), key=lambda item: (-item[1].count, item[0])))


def by_kind(skipped: Iterable[tuple[str, str]]) -> dict[str, Left]:
    """Kind of reason -> unreadable images: numbers and details of a reason do not count."""
    kinds: dict[str, list[str]] = {}
    for name, reason in skipped:
        kind = re.sub(r"\b(?<!JPEG )\d+", "N", reason.partition(":")[0])
        kinds.setdefault(kind, []).append(name)
    return by_reason(kinds)


def printable(text: str) -> str:
    """A text without characters that move the cursor or turn the direction of writing."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def some(names: Iterable[str], shown: int = _SHOWN) -> str:
    """The first names in quotes, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more


def _some(left: Left) -> str:
    more = f" and {left.count - _SHOWN} more" if left.count > _SHOWN else ""
    return printable(", ".join(left.names[:_SHOWN])) + more
