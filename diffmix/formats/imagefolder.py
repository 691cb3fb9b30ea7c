"""Hugging Face `imagefolder`: `images/<target label>/<mix id>.jpg` and `metadata.jsonl`.

`datasets.load_dataset("imagefolder", data_dir=FOLDER)` gives the columns of `metadata.jsonl` beside
each `image`. Folders are numbers and not class names: a class called `train` or `test` would be
taken for a split, and slashes are no part of a name there. The image files are the store's own
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from diffmix.errors import UserError
from diffmix.formats.named_mix import NamedMix, batches, described, from_description, suffix
from diffmix.storage import Folder

METADATA = "metadata.jsonl"
_AT_ONCE = 256


def found_in(folder: Folder) -> bool:
    return folder.exists(METADATA)


def write(folder: Folder, mixes: Iterable[NamedMix], class_names: list[str]) -> int:
    """Write the mixes and give their number. `metadata.jsonl` comes last: a folder with it is
    whole.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    lines: list[str] = []

    def write_image(mix: NamedMix) -> str:
        image = mix.load()
        place = f"images/{label_of[mix.target]:04d}"
        name = f"{mix.mix_id:08d}.{suffix(image, f'mix {mix.mix_id}')}"
        (folder / place).write(name, image)
        return json.dumps({"file_name": f"{place}/{name}", **described(mix)}, ensure_ascii=False)

    with ThreadPoolExecutor() as threads:
        for batch in batches(mixes, _AT_ONCE):
            lines += threads.map(write_image, batch)
    folder.write(METADATA, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def read(folder: Folder) -> Iterator[NamedMix]:
    """The mixes in the order of `metadata.jsonl`. Raises `UserError` for a line that does not
    describe one.
    """
    # Not splitlines: it also splits at characters that JSON strings may hold.
    for number, line in enumerate(
        folder.read(METADATA).decode("utf-8", "replace").rstrip("\n").split("\n"), 1
    ):
        where = f"Line {number} of {folder.uri}/{METADATA}"
        try:
            fields = json.loads(line)
            file_name = str(fields["file_name"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{where} does not describe an image ({type(error).__name__}); export the mixes again."
            ) from error
        yield from_description(fields, partial(_image, folder, file_name), where)


def _image(folder: Folder, name: str) -> bytes:
    try:
        return folder.read(name)
    except OSError as error:
        raise UserError(
            f"{folder.uri}/{name} cannot be read, but {METADATA} names it; export the mixes again."
        ) from error
