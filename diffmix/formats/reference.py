"""The layout of the reference implementation, as its `scripts/sample_mp.py` writes it.

Images are `data/<source>/<target>-<number>-<strength>.png`, where the spaces and slashes of class
names are underscores. The table `meta.csv` has these columns:

- `First Directory`, `Second Directory`: the source and the target class, with spaces for
  underscores;
- `Number`, `Strength`;
- `Path`: the image's path below `data/`.

The reference implementation writes `meta.csv` last. A folder without it, left by an interrupted
job, is read by its file names, as the reference implementation's own scripts do.

The layout cannot hold two classes that differ only in spaces, slashes or underscores, nor a class
whose name is no name of a folder, nor files other than PNG: JPEG and WebP mixes become PNG files of
the same pixels. Tables written here have six more columns (`OUR_COLUMNS`), which the reference
implementation ignores: the classes' exact names among them. Mixes from its own tables have no
source image and no seed.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diffmix import images
from diffmix.errors import UserError
from diffmix.formats.named_mix import NamedMix, batches, from_description, shortest, table
from diffmix.storage import Folder

META = "meta.csv"
COLUMNS = ["First Directory", "Second Directory", "Number", "Strength", "Path"]
"""The columns of the reference implementation."""
OUR_COLUMNS = ["Source Image", "Seed", "Score", "Accepted", "Source Class", "Target Class"]

_FILE = re.compile(r"(.+)-(\d+)-(.+)\.png", re.DOTALL)
_AT_ONCE = 256
_MOST_BYTES = 255 - len("-1234567890-0.123456789.png")  # of 255, the most in a file's name

_log = logging.getLogger(__name__)


def found_in(folder: Folder) -> bool:
    """Whether the folder has this layout."""
    return folder.exists(META) or bool(folder.exists("data") and (folder / "data").folders())


def directory(class_name: str) -> str:
    """The name of a class in folder and file names."""
    name = re.sub(r"[ /\\\x00-\x1f]", "_", class_name)
    return name.replace(".", "_") if name in (".", "..") else name


def write(folder: Folder, mixes: Iterable[NamedMix], class_names: list[str]) -> int:
    """Write the mixes and return their number.

    Raises `UserError` if two classes would share a folder, if a class's name cannot be that of a
    folder, or if the image of a mix cannot be read.
    """
    _check_directories(class_names)
    rows: list[list] = []

    def write_image(mix: NamedMix) -> list:
        source, target = directory(mix.source), directory(mix.target)
        strength = shortest(mix.strength)
        name = f"{target}-{mix.mix_id:06d}-{strength}.png"
        (folder / "data" / source).write(name, as_png(mix))
        first, second = source.replace("_", " "), target.replace("_", " ")
        theirs = [first, second, mix.mix_id, strength, f"{source}/{name}"]
        ours = [mix.source_id, mix.seed, mix.score, mix.accepted, mix.source, mix.target]
        return [*theirs, *ours]

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


def _check_directories(class_names: list[str]) -> None:
    owners: dict[str, str] = {}
    for name in class_names:
        other = owners.setdefault(directory(name), name)
        why = None
        if other != name:
            why = f"The classes {other!r} and {name!r} would share the folder {directory(name)}"
        elif name in ("", ".", "..") or "\0" in name:
            why = f"The class {name!r} cannot be the name of a folder"
        elif len(name.encode()) > _MOST_BYTES:
            why = (
                f"The class {name[:40]!r}... has a name of {len(name.encode())} bytes, more than a "
                f"file's name in this layout can hold ({_MOST_BYTES})"
            )
        if why:
            raise UserError(f"{why}; export to imagefolder or webdataset instead.")
    alike: dict[str, list[str]] = {}
    for name in owners:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    shared = [names for names in alike.values() if len(names) > 1]
    if shared:
        _log.warning(
            "%d classes differ from another in case or Unicode form alone, such as %s and %s; they "
            "share a folder on disks of Windows and macOS, where only %s tells them apart.",
            sum(map(len, shared)),
            *shared[0][:2],
            META,
        )


def as_png(mix: NamedMix) -> bytes:
    """The image file of a mix, as PNG whatever the store has. Raises `UserError` where it cannot be
    read.
    """
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
    text = table(folder, META, "utf-8-sig")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(
            f"{folder.uri}/{META} has no column {missing[0]!r}; "
            "it is not a table of the reference implementation."
        )
    found = []
    ours = {"Source Class", "Target Class"} <= set(reader.fieldnames or ())
    for row in reader:
        try:
            # A table from Windows has its separators, of which ours has none.
            path = row["Path"] if ours else row["Path"].replace("\\", "/")
            found.append(
                {
                    "mix_id": int(row["Number"]),
                    "source": row["Source Class" if ours else "First Directory"],
                    "target": row["Target Class" if ours else "Second Directory"],
                    "strength": float(row["Strength"]),
                    "path": path,
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
    """The descriptions in the file names. Files that are in no class's folder are left out."""
    found = []
    data = folder / "data"
    sources = [name for name in data.folders() if not name.startswith(".")]
    stray = [name for name in set(data.names()) - set(data.folders()) if name[:1] != "."]
    if stray:
        _log.warning(
            "%d files in %s are left out, because they are in no class's folder (%s).",
            len(stray),
            data.uri,
            min(stray),
        )
    for source in sources:
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
