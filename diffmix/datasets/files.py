"""Whole files at a local path or at a URI (s3://, gs://, file://), through pyarrow.fs."""

import contextlib
import hashlib
import os
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from diffmix.errors import UserError


def local_path(path: str) -> str | None:
    """The absolute local path that a path or a file:// URI means; None for any other URI."""
    if path.startswith("file://"):
        return urllib.parse.unquote(urllib.parse.urlsplit(path).path)
    return None if "://" in path else os.path.abspath(path)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI and the path in it. Raises `UserError` for a URI that pyarrow does not know."""
    try:
        return pafs.FileSystem.from_uri(urllib.parse.quote(uri, safe=":/?&=%@+~!$,;"))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{uri} cannot be opened: {error}; use a local path or a URI that starts with s3:// or gs://.") from error


def local_copy(path: str) -> str:
    """A local file with the content of `path`: itself where it is local, else a copy that this machine downloads once.

    Copies lie in the system's temporary folder under a name made of URI, size and modification time, so a changed file is
    downloaded again. Raises FileNotFoundError where there is no such file.
    """
    local = local_path(path)
    if local is not None:
        return local
    remote, remote_path = filesystem(path)
    info = remote.get_file_info(remote_path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(path)
    key = hashlib.sha256(f"{path} {info.size} {info.mtime_ns}".encode()).hexdigest()[:32]
    # Machines are shared, so each user has a folder that only they can write to.
    copy = os.path.join(tempfile.gettempdir(), f"diffmix-cache-{os.getuid()}", key)
    if not os.path.exists(copy):
        with writing(copy) as temporary:
            pafs.copy_files(remote_path, temporary, source_filesystem=remote, destination_filesystem=pafs.LocalFileSystem())
    return copy


@contextlib.contextmanager
def writing(path: str) -> Iterator[str]:
    """The name of a local file to write in the block; it becomes `path`, whole, when the block ends without an error."""
    local = local_path(path)
    folder = os.path.dirname(local) if local is not None else tempfile.gettempdir()
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if local is not None:
            os.replace(temporary, local)
        else:
            remote, remote_path = filesystem(path)
            remote.create_dir(os.path.dirname(remote_path), recursive=True)
            pafs.copy_files(temporary, remote_path, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=remote)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def read_text(path: str) -> str | None:
    """The UTF-8 text of a file; None where there is no such file."""
    try:
        with open(local_copy(path), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_text(path: str, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with writing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
