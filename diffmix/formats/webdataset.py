"""WebDataset: tar shards `mixes-000000.tar` in which a sample is `<mix id>.jpg` and `<mix
id>.json`.

`webdataset.WebDataset(...).decode("pil")` and `datasets.load_dataset("webdataset", ...)` read it.
The image files are the store's own bytes, and the same mixes always give the same shards.
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
"""Mixes in a shard, which is put together in memory."""


def found_in(folder: Folder) -> bool:
    return any(name.endswith(".tar") for name in folder.names())


def write(folder: Folder, mixes: Iterable[NamedMix], class_names: list[str]) -> int:
    """Write the mixes and give their number."""
    written = 0
    for number, shard in enumerate(batches(mixes, SHARD_MIXES)):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for mix in shard:
                image = mix.load()
                _add(tar, f"{mix.mix_id:08d}.{suffix(image, f'mix {mix.mix_id}')}", image)
                _add(
                    tar,
                    f"{mix.mix_id:08d}.json",
                    json.dumps(described(mix), ensure_ascii=False).encode(),
                )
        folder.write(f"mixes-{number:06d}.tar", content.getbuffer())
        written += len(shard)
    return written


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def read(folder: Folder) -> Iterator[NamedMix]:
    """The mixes of all shards, by name. Raises `UserError` for a damaged shard and for a sample
    that is no mix.
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
    """A sample is a run of members with one name up to the first dot."""
    key, fields, place = "", None, None
    for member in [*tar, None]:
        name, _, ending = member.name.partition(".") if member else ("", "", "")
        if name != key:
            if key:
                where = f"The sample {key} in {folder.uri}/{shard}"
                if fields is None or place is None:
                    raise UserError(
                        f"{where} is no mix, which has an image and a .json; export the mixes again."
                    )
                yield from_description(fields, partial(_image, folder, shard, *place), where)
            key, fields, place = name, None, None
        if member and ending == "json":
            content = tar.extractfile(member)
            fields = json.load(content) if content else None
        elif member:
            place = (member.offset_data, member.size)


def _image(folder: Folder, shard: str, offset: int, size: int) -> bytes:
    with folder.open(shard) as file:
        file.seek(offset)
        return file.read(size)
