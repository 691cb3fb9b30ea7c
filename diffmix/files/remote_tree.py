"""A data set in a bucket as a folder of this node: its images are there by name, size and time of
change, but empty. Lists, labels and tables are there with their content.

So every reader of folders finds the classes of a bucket without downloading it, and each image is
read once, where it is decoded.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from diffmix import images, storage
from diffmix.errors import UserError, reason
from diffmix.files.node_copy import cache_folder, copy_path, download, once_a_node

_TABLES = (".parquet", ".arrow")
_LARGE = 64 * 2**20  # other files of more bytes are no lists of labels
_ORIGIN = ".origin"
_THREADS = 16


def here(spec: str) -> str:
    """A data set's name with this node's folder in place of a URI: `s3://...`, `NAME:s3://...`. A
    name without a URI stays as it is.

    Raises `UserError` for a bucket that cannot be listed, and for a URI at which there is nothing.
    """
    name, _, uri = spec.partition(":") if spec.count(":") > 1 else ("", "", spec)
    if "://" not in uri or uri.startswith("file://"):
        return spec
    remote, path = storage.filesystem(uri)
    try:
        info = remote.get_file_info(path)
        if info.type == pafs.FileType.File:
            return storage.local_version(uri)
        infos = remote.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"The data set {uri} cannot be listed ({reason(error)}); check the bucket and the "
            "permission to list it."
        ) from error
    files = [info for info in infos if info.type == pafs.FileType.File]
    if not files:
        raise UserError(f"There is nothing at {uri}; check the bucket and the path in it.")
    identity = sorted((info.path, info.size, info.mtime_ns) for info in files)
    tree = copy_path(uri, "tree", *identity)
    once_a_node(tree, lambda to: _plant(to, remote, path, files))
    once_a_node(tree + _ORIGIN, lambda to: _write_text(to, uri.rstrip("/")))
    return f"{name}:{tree}" if name else tree


def _write_text(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


def origin(path: str) -> str | None:
    """The URI that a path in such a tree stands for; None for any other path."""
    cache = cache_folder() + os.sep
    if not path.startswith(cache):
        return None
    top, _, rest = path[len(cache) :].partition(os.sep)
    uri = _origin_of(cache + top)
    return uri and (f"{uri}/{rest}" if rest else uri)


@lru_cache(maxsize=64)
def _origin_of(tree: str) -> str | None:
    with contextlib.suppress(OSError):
        return Path(tree + _ORIGIN).read_text(encoding="utf-8")
    return None


def read_file(place: str) -> bytes:
    """The content of a local file, of a file of such a tree, or at a URI. Raises `OSError`."""
    uri = place if "://" in place else origin(place)
    if uri is None:
        return Path(place).read_bytes()
    remote, path = storage.filesystem(uri)
    with remote.open_input_file(path) as file:
        return file.read()


@contextlib.contextmanager
def said_of_its_origin() -> Iterator[None]:
    """Name the bucket, not this node's folder, in the sentence of a `UserError` in the block."""
    try:
        yield
    except UserError as error:
        text, cache = str(error), cache_folder() + os.sep
        for top in {part[:32] for part in text.split(cache)[1:]}:
            uri = _origin_of(cache + top)
            text = text.replace(cache + top, uri) if uri else text
        if text == str(error):
            raise
        raise UserError(text) from error


def _plant(to: str, remote: pafs.FileSystem, root: str, files: list[pafs.FileInfo]) -> None:
    os.makedirs(to)
    folders, wanted = {to}, []
    for info in files:
        place = os.path.join(to, info.path[len(root) :].strip("/"))
        folder = os.path.dirname(place)
        if folder not in folders:
            os.makedirs(folder, exist_ok=True)
            folders.add(folder)
        if _is_read_whole(info):
            wanted.append((info, place))
            continue
        with open(place, "wb") as file:
            file.truncate(info.size)  # a hole: takes no space on the disk
        _set_time(place, info)

    def fetch(one: tuple[pafs.FileInfo, str]) -> None:
        info, place = one
        download(remote, info.path, place)
        _set_time(place, info)

    with ThreadPoolExecutor(_THREADS) as threads:
        for _ in threads.map(fetch, wanted):
            pass


def _is_read_whole(info: pafs.FileInfo) -> bool:
    """Whether readers open the file to find out what there is: a table or a list."""
    suffix = os.path.splitext(info.base_name)[1].lower()
    return suffix in _TABLES or (suffix not in images.SUFFIXES and info.size <= _LARGE)


def _set_time(place: str, info: pafs.FileInfo) -> None:
    os.utime(place, ns=(info.mtime_ns, info.mtime_ns))
