"""WebDataset: tar shards `mixes-000000.tar`, in which each mix is `<mix id>.jpg` and `.json`.

`webdataset.WebDataset(...).decode("pil")` and `datasets.load_dataset("webdataset", ...)` read it.
The image files are the bytes of the mix store. The same mixes always give the same shards.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial

from diffmix.errors import UserError
from diffmix.formats.named_mix import NamedMix, batches, described, from_description, suffix
from diffmix.storage import Folder

SHARD_MIXES = 1000
"""Mixes per shard. A shard is put together in memory."""


def found_in(folder: Folder) -> bool:
    """Whether the folder has this layout."""
    return any(name.endswith(".tar") for name in folder.names())


def write(folder: Folder, mixes: Iterable[NamedMix], class_names: list[str]) -> int:
    """Write the mixes and return their number.

    Raises `UserError` for a mix whose image cannot be read. Labels are not written: `class_names`
    is part of the signature that all layouts share.
    """
    written = 0
    for number, shard in enumerate(batches(mixes, SHARD_MIXES)):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for mix in shard:
                image, name = mix.load(), f"{mix.mix_id:08d}"
                description = json.dumps(described(mix), ensure_ascii=False)
                _add(tar, f"{name}.{suffix(image, f'mix {mix.mix_id}')}", image)
                _add(tar, f"{name}.json", description.encode())
        folder.write(f"mixes-{number:06d}.tar", content.getbuffer())
        written += len(shard)
    return written


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def read(folder: Folder) -> Iterator[NamedMix]:
    """The mixes of all shards, which are sorted by name.

    Raises `UserError` for a damaged shard and for a sample that is no mix.
    """
    for name in folder.names():
        if not name.endswith(".tar"):
            continue
        try:
            with folder.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                yield from _samples(folder, name, tar)
        except (tarfile.TarError, OSError, ValueError) as error:
            raise UserError(
                f"The shard {folder.uri}/{name} cannot be read ({error}); export the mixes again."
            ) from error


def _samples(folder: Folder, shard: str, tar: tarfile.TarFile) -> Iterator[NamedMix]:
    """The mixes of one shard. A sample is a run of members with one name up to the first dot."""
    key, fields, span = "", None, None
    # The None at the end completes the last sample.
    for member in [*tar, None]:
        name, _, ending = member.name.partition(".") if member else ("", "", "")
        if name != key:
            if key:
                where = f"The sample {key} in {folder.uri}/{shard}"
                if fields is None or span is None:
                    raise UserError(
                        f"{where} is no mix, because it lacks an image or a .json; "
                        "export the mixes again."
                    )
                yield from_description(fields, partial(_image, folder, shard, *span), where)
            key, fields, span = name, None, None
        if member and ending == "json":
            content = tar.extractfile(member)
            fields = json.load(content) if content else None
        elif member:
            span = (member.offset_data, member.size)


def _image(folder: Folder, shard: str, offset: int, size: int) -> bytes:
    with folder.open(shard) as file:
        file.seek(offset)
        return file.read(size)
