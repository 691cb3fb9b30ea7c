"""Hugging Face `imagefolder`: `images/<target label>/<mix id>.jpg` and `metadata.jsonl`.

`datasets.load_dataset("imagefolder", data_dir=FOLDER)` gives each `image` with the columns of
`metadata.jsonl`. Folders are named by numbers, not by classes: a class called `train` or `test`
would be taken for a split, and a slash cannot be part of a folder's name. The image files are the
bytes of the mix store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diffmix.errors import UserError
from diffmix.formats.named_mix import (
    NamedMix,
    batches,
    described,
    from_description,
    suffix,
    table,
)
from diffmix.storage import Folder

METADATA = "metadata.jsonl"
_AT_ONCE = 256


def found_in(folder: Folder) -> bool:
    """Whether the folder has this layout."""
    return folder.exists(METADATA)


def write(folder: Folder, mixes: Iterable[NamedMix], class_names: list[str]) -> int:
    """Write the mixes and return their number.

    `metadata.jsonl` is written last, so that a folder with it is complete. Raises `UserError` for a
    mix whose image cannot be read.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    lines: list[str] = []

    def write_image(mix: NamedMix) -> str:
        image = mix.load()
        path = f"images/{label_of[mix.target]:04d}"
        name = f"{mix.mix_id:08d}.{suffix(image, f'mix {mix.mix_id}')}"
        (folder / path).write(name, image)
        return json.dumps({"file_name": f"{path}/{name}", **described(mix)}, ensure_ascii=False)

    with ThreadPoolExecutor() as threads:
        for batch in batches(mixes, _AT_ONCE):
            lines += threads.map(write_image, batch)
    folder.write(METADATA, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def read(folder: Folder) -> Iterator[NamedMix]:
    """The mixes in the order of `metadata.jsonl`.

    Raises `UserError` for a line that does not describe a mix.
    """
    text = table(folder, METADATA).rstrip("\n")
    # Not splitlines: it also splits at characters that JSON strings may contain.
    for number, line in enumerate(text.split("\n"), 1):
        where = f"Line {number} of {folder.uri}/{METADATA}"
        try:
            fields = json.loads(line)
            file_name = str(fields["file_name"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{where} does not describe an image ({type(error).__name__}); "
                "export the mixes again."
            ) from error
        yield from_description(fields, partial(_image, folder, file_name), where)


def _image(folder: Folder, name: str) -> bytes:
    try:
        return folder.read(name)
    except OSError as error:
        raise UserError(
            f"{folder.uri}/{name} cannot be read, but {METADATA} names it; export the mixes again."
        ) from error
