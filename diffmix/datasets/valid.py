"""The readable images of one split, decoded once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np

from diffmix import images
from diffmix.config import DataConfig
from diffmix.datasets.decode import Decode, in_threads
from diffmix.datasets.duplicates import Digests, Seen, digest_of_pixels
from diffmix.datasets.raw import Found, Raw
from diffmix.datasets.real import Example
from diffmix.errors import UserError

_log = logging.getLogger(__name__)
_NAMED = 3

Skipped = list[tuple[str, str]]
"""Unreadable images, and why each is."""


class _Row(NamedTuple):
    found: Found
    """Without its bytes."""
    start: int
    """Where the bytes begin in the file, and where they end."""
    stop: int
    digests: Digests


class Valid:
    """The readable images of one split. Their bytes are kept in an unnamed file, which the system
    deletes with the process.
    """

    def __init__(
        self,
        raw: Raw,
        labels: list[int | None],
        config: DataConfig,
        file: BinaryIO,
        skipped: Skipped,
        decode: Decode = in_threads,
    ):
        """`labels` has the training label of each of the split's classes. Images of a class with
        None are left out, in `unknown`; unreadable ones are added to `skipped`. `decode` reads the
        files.

        Raises `UserError` for more unreadable images than allowed, for ids that occur twice and
        where nothing is left.
        """
        self.raw = raw
        self.unknown: list[str] = []
        """Ids of the images of classes that training does not know."""
        self.paged: list[str] = []
        """Ids of the images with several pages or frames, of which the first is used."""
        self.found = 0
        """How many images there are, readable or not."""
        self._file = file
        self._rows: list[_Row] = []
        self._digests: dict[int, bytes] = {}
        """Of all pixels, for the images that had to be compared so."""
        seen: set[str] = set()

        def known() -> Iterator[Found]:
            for found in raw.examples():
                self.found += 1
                if found.image_id in seen:
                    raise UserError(
                        f"The image id {found.image_id!r} occurs twice in {raw.where}; ids must be "
                        "unique."
                    )
                seen.add(found.image_id)
                if labels[found.label] is None:
                    self.unknown.append(found.image_id)
                else:
                    yield found

        for found, result in decode(known(), config.max_pixels):
            if isinstance(result, str):
                _skip(found.image_id, result, config, skipped)
                continue
            if result.pages > 1:
                self.paged.append(found.image_id)
            start = file.tell()
            file.write(result.data)
            label = labels[found.label] or 0  # none is unknown here
            row = found._replace(image=None, label=label)
            self._rows.append(_Row(row, start, file.tell(), result.digests))
        file.flush()
        if not self._rows:
            known_class = " of a class that training knows" if self.unknown else ""
            raise UserError(f"{raw.where} has no readable image{known_class}.")
        self.labels = np.array([row.found.label for row in self._rows], dtype=np.int32)

    def ids(self, indices: np.ndarray) -> list[str]:
        """The ids of the images at these indices."""
        return [self._rows[index].found.image_id for index in indices.tolist()]

    def seen(self, indices: np.ndarray, class_names: list[str]) -> list[Seen]:
        """The images at these indices, for comparing them with others."""
        found = []
        for index in indices.tolist():
            row = self._rows[index]
            name = class_names[row.found.label]
            found.append(Seen(row.found.image_id, row.digests, name, partial(self._pixels, index)))
        return found

    def _pixels(self, index: int) -> bytes:
        if index not in self._digests:
            self._digests[index] = digest_of_pixels(images.decode(self._bytes(index)))
        return self._digests[index]

    def _bytes(self, index: int) -> bytes:
        row = self._rows[index]
        return os.pread(self._file.fileno(), row.stop - row.start, row.start)

    def examples(self, indices: np.ndarray) -> Iterator[Example]:
        """The images at these indices. One that occurs again has the id `<id>#1`, then `<id>#2`."""
        times: dict[int, int] = {}
        taken = {self._rows[index].found.image_id for index in indices.tolist()}
        for index in indices.tolist():
            found = self._rows[index].found
            image_id = found.image_id
            while index in times and image_id in taken:
                times[index] += 1
                image_id = f"{found.image_id}#{times[index]}"
            times.setdefault(index, 0)
            taken.add(image_id)
            yield Example(image_id, self._bytes(index), found.label, found.group)


def _skip(image_id: str, reason: str, config: DataConfig, skipped: Skipped) -> None:
    skipped.append((image_id, reason))
    _log.warning("skipped %s: %s", image_id, reason)
    if len(skipped) > config.max_bad_images:
        last = ", ".join(f"{name!r} ({why})" for name, why in skipped[-_NAMED:])
        raise UserError(
            f"More than {config.max_bad_images} images cannot be read, the last of them {last}; "
            "repair or remove them, or allow more with --data.max_bad_images."
        )
