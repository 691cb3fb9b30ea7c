"""Folders and whole files that may be local, NFS, `s3://` or `gs://`, through `pyarrow.fs`."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import os
import shutil
import tempfile
import urllib.parse
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from diffmix.errors import UserError, reason


class Folder:
    """Files of one folder, by name. Writes are atomic: a reader sees the whole file or none.

    Object stores show an object when it is complete; on a disk a file is written beside its place,
    synced and renamed. Holds no open files; cheap to make, picklable.
    """

    def __init__(self, uri: str):
        self.uri = uri if "://" in uri else os.path.abspath(uri)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri.rstrip('/')}/{name}")

    @property
    def is_local(self) -> bool:
        return local_path(self.uri) is not None

    @property
    def path(self) -> str:
        """The path on this machine, or the path inside the object store."""
        return filesystem(self.uri)[1]

    def create(self) -> Folder:
        """Make the folder; `UserError` where that is not allowed or a file is in the way."""
        remote, path = filesystem(self.uri)
        try:
            remote.create_dir(path, recursive=True)
            if self.is_local and not os.access(path, os.W_OK):
                raise PermissionError(f"no permission to write in {path}")
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"The folder {self.uri} cannot be made or written to ({reason(error)}); choose another --out."
            ) from error
        return self

    def exists(self, name: str = "") -> bool:
        remote, path = filesystem(self.uri)
        return (
            remote.get_file_info(f"{path}/{name}" if name else path).type != pafs.FileType.NotFound
        )

    def names(self) -> list[str]:
        """The names of the files and folders in it, sorted; none where it does not exist."""
        remote, path = filesystem(self.uri)
        infos = remote.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def open(self, name: str) -> pa.NativeFile:
        """A file to read at random; the caller closes it."""
        remote, path = filesystem(self.uri)
        return remote.open_input_file(f"{path}/{name}")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write one file; `UserError` where the disk is full or writing is not allowed."""
        remote, path = filesystem(self.uri)
        try:
            if not self.is_local:
                with remote.open_output_stream(f"{path}/{name}") as file:
                    file.write(data)
                return
            with writing(f"{path}/{name}") as temporary, builtins.open(temporary, "wb") as local:
                local.write(data)
                local.flush()
                os.fsync(local.fileno())
        except OSError as error:
            raise UserError(
                f"{self.uri}/{name} cannot be written ({reason(error)}); free some space or choose another --out."
            ) from error

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file. An object store cannot: there the file is read and written
        again, so append rarely.
        """
        if self.is_local:
            with builtins.open(f"{self.path}/{name}", "ab") as file:
                file.write(data)
        else:
            self.write(name, (self.read(name) if self.exists(name) else b"") + data)

    def fetch(self) -> str:
        """A local folder with the same files: itself where it is local, else a copy that this
        machine downloads once (see `local_copy`).
        """
        if self.is_local:
            return self.path
        remote, path = filesystem(self.uri)
        infos = remote.get_file_info(pafs.FileSelector(path, recursive=True))
        copy = _cached(self.uri, *sorted((info.path, info.size, info.mtime_ns) for info in infos))
        if not os.path.exists(copy):
            temporary = f"{copy}.{uuid.uuid4().hex}.tmp"
            os.makedirs(temporary)
            try:
                pafs.copy_files(path, temporary, source_filesystem=remote)
                with contextlib.suppress(
                    OSError
                ):  # another process was faster, with the same files
                    os.rename(temporary, copy)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return copy

    def upload(self, local: str) -> None:
        """Copy the files of a local folder into this one."""
        remote, path = filesystem(self.uri)
        remote.create_dir(path, recursive=True)
        pafs.copy_files(local, path, destination_filesystem=remote)


def local_path(uri: str) -> str | None:
    """The absolute local path that a path or a file:// URI means; None for any other URI."""
    if uri.startswith("file://"):
        return urllib.parse.unquote(urllib.parse.urlsplit(uri).path)
    return None if "://" in uri else os.path.abspath(uri)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path in it. `UserError` for a URI that pyarrow does
    not know.
    """
    local = local_path(uri)
    if local is not None:
        return pafs.LocalFileSystem(), local
    try:
        return pafs.FileSystem.from_uri(urllib.parse.quote(uri, safe=":/?&=%@+~!$,;"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{uri} cannot be opened ({reason(error)}); use a path, s3:// or gs://."
        ) from error


def local_copy(uri: str) -> str:
    """A local file with the content of one: itself where it is local, else a copy that this machine
    downloads once.

    Copies lie in the system's temporary folder under a name made of URI, sizes and modification
    times, so what has changed is downloaded again. Raises FileNotFoundError where there is no such
    file.
    """
    local = local_path(uri)
    if local is not None:
        return local
    remote, path = filesystem(uri)
    info = remote.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(uri)
    copy = _cached(uri, info.size, info.mtime_ns)
    if not os.path.exists(copy):
        with writing(copy) as temporary:
            pafs.copy_files(
                path,
                temporary,
                source_filesystem=remote,
                destination_filesystem=pafs.LocalFileSystem(),
            )
    return copy


def _cached(*identity: object) -> str:
    """The local path for a copy of something. Machines are shared, so each user has a folder that
    only they can write to.
    """
    key = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    return os.path.join(tempfile.gettempdir(), f"diffmix-cache-{os.getuid()}", key)


@contextlib.contextmanager
def writing(uri: str) -> Iterator[str]:
    """The name of a local file to write in the block; it becomes the file `uri`, whole, when the
    block ends without an error.
    """
    local = local_path(uri)
    folder = os.path.dirname(local) if local is not None else tempfile.gettempdir()
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if local is not None:
            os.replace(temporary, local)
        else:
            remote, path = filesystem(uri)
            remote.create_dir(os.path.dirname(path), recursive=True)
            pafs.copy_files(
                temporary,
                path,
                source_filesystem=pafs.LocalFileSystem(),
                destination_filesystem=remote,
            )
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
