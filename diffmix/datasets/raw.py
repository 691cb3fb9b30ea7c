"""What readers return: a split as it was found, neither read nor validated."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Found(NamedTuple):
    """One labeled image that may turn out to be unreadable."""

    image_id: str
    image: bytes | str | None
    """The file's bytes, or the path of a file that is not read yet. None: the row has neither."""
    label: int
    """Index into the split's own class names."""
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Raw:
    """One split of a data set as it was found."""

    where: str
    """The user's name for it, for error messages."""
    class_names: list[str]
    superclass: str | None
    stamp: str
    """Changes when the source may have changed. Made without reading images."""
    examples: Callable[[], Iterator[Found]]
    """Starts a new pass over the images, always in the same order."""


def file_stamp(paths: Iterable[str], root: str) -> str:
    """SHA-256 over the names relative to `root`, sizes and modification times of files, in hex."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)
            digest.update(
                f"{os.path.relpath(path, root)!a} {status.st_size} {status.st_mtime_ns}\n".encode()
            )
        except OSError:  # a dangling link: validation names it
            digest.update(f"{os.path.relpath(path, root)!a} -\n".encode())
    return digest.hexdigest()
