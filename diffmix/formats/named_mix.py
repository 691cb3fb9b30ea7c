"""A mix in transit between two layouts, and its description as JSON values."""

from __future__ import annotations

import html
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffmix import images
from diffmix.datasets.class_names import spoken
from diffmix.errors import UserError, reason
from diffmix.report.data_uri import data_uri
from diffmix.storage import Folder

_Item = TypeVar("_Item")
SIDE = 160
"""Longest side of an image, in pixels."""
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True, kw_only=True)
class NamedMix:
    """A mix whose classes are names."""

    mix_id: int
    source_id: str
    """`image_id` of the real image. Empty if it is unknown or if there is none."""
    source: str
    """Name of the source class."""
    target: str
    """Name of the target class."""
    strength: float
    """In (0, 1]."""
    seed: int | None
    """None if it is unknown."""
    score: float | None
    """The gate's score; None without a gate."""
    accepted: bool
    load: Callable[[], bytes] = field(repr=False)
    """Reads the image file. Called only for mixes that are needed."""

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return mix_html(self)


def shortest(strength: float) -> float:
    """The number with the fewest digits that is the same float32: 0.7, not 0.699999988079071."""
    return float(str(np.float32(strength)))


def described(mix: NamedMix) -> dict:
    """All fields but the image, as JSON values."""
    fields = {name: value for name, value in vars(mix).items() if name != "load"}
    return fields | {"strength": shortest(mix.strength)}


def from_description(fields: dict, load: Callable[[], bytes], where: str) -> NamedMix:
    """The mix that `described` gave `fields` for. Other fields are ignored.

    Raises `UserError`, with `where` in its text, if a field is missing or impossible.
    """
    try:
        score, seed = fields.get("score"), fields.get("seed")
        mix = NamedMix(
            mix_id=int(fields["mix_id"]),
            source_id=str(fields.get("source_id") or ""),
            source=str(fields["source"]),
            target=str(fields["target"]),
            strength=float(fields["strength"]),
            seed=None if seed is None else int(seed),
            score=None if score is None else float(score),
            accepted=bool(fields.get("accepted", True)),
            load=load,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where} does not describe a mix ({type(error).__name__}: {error}); "
            "export the mixes again."
        ) from error
    if not 0 < mix.strength <= 1:
        raise UserError(
            f"{where} has the strength {mix.strength:g}, but it must be above 0 and at most 1."
        )
    return mix


def suffix(image: bytes, where: str) -> str:
    """The file name extension of an image, without the dot, by its content.

    Raises `UserError` if the bytes are no image.
    """
    try:
        kind = str(Image.open(io.BytesIO(image)).format)
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(
            f"The image of {where} cannot be read; delete its part and make it again."
        ) from error
    return _SUFFIXES.get(kind, kind.lower())


def table(folder: Folder, name: str, encoding: str = "utf-8") -> str:
    """The text of a layout's table. Raises `UserError` where it cannot be read."""
    try:
        return folder.read(name).decode(encoding, "replace")
    except OSError as error:
        raise UserError(
            f"{folder.uri}/{name} cannot be read ({reason(error)}); export the mixes again."
        ) from error


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def mix_html(mix: NamedMix) -> str:
    """A mix as a figure: its image, its classes and its strength."""
    image = images.decode(mix.load())
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG")
    source, target = html.escape(spoken(mix.source)), html.escape(spoken(mix.target))
    facts = [f"strength {shortest(mix.strength):g}"]
    if mix.score is not None:
        facts.append(f"score {mix.score:.3f}")
    if not mix.accepted:
        facts.append("rejected")
    return (
        '<figure style="display:inline-block;margin:4px;font-size:12px;text-align:left">'
        f'<img src="{data_uri("image/png", file.getvalue())}" style="width:{SIDE}px" '
        f'alt="mix {mix.mix_id}: {source} into {target}">'
        f"<figcaption>{mix.mix_id}: {source} → {target}<br>{', '.join(facts)}</figcaption>"
        "</figure>"
    )


def grid_html(title: str, mixes: Iterable[NamedMix]) -> str:
    """Some mixes side by side, under a line of text."""
    return f"<div><p>{html.escape(title)}</p>{''.join(mix_html(mix) for mix in mixes)}</div>"
