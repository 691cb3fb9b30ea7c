"""The layout of the reference implementation, as its `scripts/sample_mp.py` writes it.

Images are `data/<source>/<target>-<number>-<strength>.png`, where the spaces and slashes of class
names are underscores. The table `meta.csv` has these columns:

- `First Directory`, `Second Directory`: the source and the target class, with spaces for
  underscores;
- `Number`, `Strength`;
- `Path`: the image's path below `data/`.

The reference implementation writes `meta.csv` last. A folder without it, left by an interrupted
job, is read by its file names, as the reference implementation's own scripts do.

The layout cannot hold two classes that differ only in spaces, slashes or underscores, nor files
other than PNG: JPEG and WebP mixes become PNG files of the same pixels. Tables written here have
four more columns (`Source Image`, `Seed`, `Score`, `Accepted`), which the reference implementation
ignores. Mixes from its own tables have no source image and no seed.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diffmix import images
from diffmix.errors import UserError
from diffmix.formats.named_mix import NamedMix, batches, from_description, shortest
from diffmix.storage import Folder

META = "meta.csv"
COLUMNS = ["First Directory", "Second Directory", "Number", "Strength", "Path"]
"""The columns of the reference implementation."""
OUR_COLUMNS = ["Source Image", "Seed", "Score", "Accepted"]

_FILE = re.compile(r"(.+)-(\d+)-(.+)\.png")
_AT_ONCE = 256


def found_in(folder: Folder) -> bool:
    """Whether the folder has this layout."""
    return folder.exists(META) or folder.exists("data")


def directory(class_name: str) -> str:
    """The name of a class in folder and file names."""
    name = re.sub(r"[ /\\\x00-\x1f]", "_", class_name)
    return name.replace(".", "_") if name in (".", "..") else name


def write(folder: Folder, mixes: Iterable[NamedMix], class_names: list[str]) -> int:
    """Write the mixes and return their number.

    Raises `UserError` if two classes would share a folder, or if the image of a mix cannot be read.
    """
    owners: dict[str, str] = {}
    for name in class_names:
        other = owners.setdefault(directory(name), name)
        if other != name:
            raise UserError(
                f"The classes {other!r} and {name!r} would share the folder {directory(name)}; "
                "export to imagefolder or webdataset instead."
            )
    rows: list[list] = []

    def write_image(mix: NamedMix) -> list:
        source, target = directory(mix.source), directory(mix.target)
        strength = shortest(mix.strength)
        name = f"{target}-{mix.mix_id:06d}-{strength}.png"
        (folder / "data" / source).write(name, _png(mix))
        first, second = source.replace("_", " "), target.replace("_", " ")
        theirs = [first, second, mix.mix_id, strength, f"{source}/{name}"]
        return [*theirs, mix.source_id, mix.seed, mix.score, mix.accepted]

    # PNG compression is slow and releases Python's lock.
    with ThreadPoolExecutor() as threads:
        for batch in batches(mixes, _AT_ONCE):
            rows += threads.map(write_image, batch)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS + OUR_COLUMNS)
    writer.writerows(rows)
    folder.write(META, text.getvalue().encode())
    return len(rows)


def _png(mix: NamedMix) -> bytes:
    data = mix.load()
    if data.startswith(b"\x89PNG"):
        return data
    try:
        return images.encode(images.decode(data), "png", 100)
    except images.BadImage as error:
        raise UserError(
            f"The image of mix {mix.mix_id} cannot be read ({error}); "
            "delete its part and make it again."
        ) from error


def read(folder: Folder) -> Iterator[NamedMix]:
    """The mixes, sorted by number and path.

    Raises `UserError` for a table or a file name that is not of this layout.
    """
    rows = _table(folder) if folder.exists(META) else _listing(folder)
    for fields in sorted(rows, key=lambda fields: (fields["mix_id"], fields["path"])):
        path = fields["path"]
        yield from_description(fields, partial(_image, folder, path), f"{path} in {folder.uri}")


def _table(folder: Folder) -> list[dict]:
    """The descriptions in `meta.csv`."""
    text = folder.read(META).decode("utf-8-sig", "replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(
            f"{folder.uri}/{META} has no column {missing[0]!r}; "
            "it is not a table of the reference implementation."
        )
    found = []
    for row in reader:
        try:
            found.append(
                {
                    "mix_id": int(row["Number"]),
                    "source": row["First Directory"],
                    "target": row["Second Directory"],
                    "strength": float(row["Strength"]),
                    "path": row["Path"].replace("\\", "/"),
                    "source_id": row.get("Source Image"),
                    "seed": row.get("Seed") or None,
                    "score": row.get("Score") or None,
                    "accepted": row.get("Accepted") != "False",
                }
            )
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(
                f"Line {reader.line_num} of {folder.uri}/{META} cannot be read ({error}); "
                "write the table again."
            ) from error
    return found


def _listing(folder: Folder) -> list[dict]:
    """The descriptions in the file names."""
    found = []
    for source in (folder / "data").names():
        if source.startswith("."):
            continue
        for name in (folder / "data" / source).names():
            if not name.endswith(".png"):
                continue
            parts = _FILE.fullmatch(name)
            if not parts:
                raise UserError(
                    f"{folder.uri}/data/{source}/{name} is not named "
                    "<target>-<number>-<strength>.png; remove it."
                )
            found.append(
                {
                    "mix_id": int(parts[2]),
                    "source": source,
                    "target": parts[1],
                    "strength": parts[3],
                    "path": f"{source}/{name}",
                }
            )
    return found


def _image(folder: Folder, path: str) -> bytes:
    try:
        return (folder / "data").read(path)
    except OSError as error:
        raise UserError(
            f"{folder.uri}/data/{path} cannot be read, but {META} names it; "
            "remove its line or restore it."
        ) from error
