"""Folders and whole files on disks, NFS, `s3://` and `gs://`, through `pyarrow.fs`."""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import tempfile
import urllib.parse
import uuid
from collections.abc import Container, Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from diffmix.errors import UserError, reason
from diffmix.files.node_copy import copied, copied_file, copied_folder, keep_as_copy

log = logging.getLogger(__name__)


class Folder:
    """The files of one folder, by name. Writes are atomic: a reader sees the whole file or none.

    Object stores show only complete objects. On a disk, a file is written under another name,
    synced and renamed. A `Folder` holds no open files, is cheap to make and can be pickled.
    """

    def __init__(self, uri: str):
        """`uri` is a path or a URI that pyarrow knows."""
        self.uri = uri if "://" in uri else os.path.abspath(uri)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri.rstrip('/')}/{name}")

    @property
    def is_local(self) -> bool:
        """Whether it is a path or a `file://` URI."""
        return local_path(self.uri) is not None

    @property
    def path(self) -> str:
        """The path on this machine or in the object store."""
        return filesystem(self.uri)[1]

    def create(self) -> Folder:
        """Make the folder, with its parents, and return it.

        Raises `UserError` if that is not allowed or a file is in the way.
        """
        remote, path = filesystem(self.uri)
        try:
            remote.create_dir(path, recursive=True)
            if self.is_local and not os.access(path, os.W_OK):
                raise PermissionError(f"no permission to write in {path}")
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"The folder {self.uri} cannot be made or written to ({reason(error)}); "
                "choose another --out."
            ) from error
        return self

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder `name` in it; without a name, whether it exists."""
        remote, path = filesystem(self.uri)
        info = remote.get_file_info(f"{path}/{inside(name)}" if name else path)
        return info.type != pafs.FileType.NotFound

    def names(self) -> list[str]:
        """The sorted names of the files and folders in it; empty if it does not exist.

        Raises `UserError` for a file, and for a folder that may not be read.
        """
        return sorted(info.base_name for info in self._infos())

    def folders(self) -> list[str]:
        """The sorted names of the folders in it, otherwise as `names`."""
        infos = self._infos()
        return sorted(i.base_name for i in infos if i.type == pafs.FileType.Directory)

    def _infos(self) -> list[pafs.FileInfo]:
        remote, path = filesystem(self.uri)
        try:
            return list(remote.get_file_info(pafs.FileSelector(path, allow_not_found=True)))
        except NotADirectoryError as error:
            raise UserError(f"{self.uri} is a file, but a folder is needed here.") from error
        except PermissionError as error:
            raise UserError(f"The folder {self.uri} may not be read; change its mode.") from error

    def open(self, name: str) -> pa.NativeFile:
        """A file for random access. The caller closes it. Raises `OSError` if it does not exist."""
        remote, path = filesystem(self.uri)
        return remote.open_input_file(f"{path}/{inside(name)}")

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `OSError` if it does not exist."""
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes | memoryview | pa.Buffer) -> None:
        """Write one file. Raises `UserError` if the disk is full or writing is not allowed."""
        remote, path = filesystem(self.uri)
        inside(name)
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
                f"{self.uri}/{name} cannot be written ({reason(error)}); "
                "free some space or choose another --out."
            ) from error

    def delete(self, name: str) -> None:
        """Remove a file. Raises `OSError` if it does not exist or that is not allowed."""
        remote, path = filesystem(self.uri)
        remote.delete_file(f"{path}/{name}")

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file.

        Object stores cannot append: there the whole file is read and written again, so append
        rarely.
        """
        if self.is_local:
            with builtins.open(f"{self.path}/{name}", "ab") as file:
                file.write(data)
        else:
            self.write(name, (self.read(name) if self.exists(name) else b"") + data)

    def fetch(self, only: Container[str] | None = None) -> str:
        """The path of a local folder with the same files.

        That is the folder itself if it is local, else a copy that each node downloads once (see
        `local_copy`). `only` names the files and folders in it that are wanted; None: all.
        """
        return self.path if self.is_local else copied_folder(self.uri, *filesystem(self.uri), only)

    def upload(self, local: str) -> None:
        """Copy the files of a local folder into this one."""
        remote, path = filesystem(self.uri)
        remote.create_dir(path, recursive=True)
        pafs.copy_files(local, path, destination_filesystem=remote)


def inside(name: str) -> str:
    """The name of a file in a folder. `UserError` for one that leads out of it: names may come from
    other people's files.
    """
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise UserError(
            f"The file name {name!r} leads out of its folder; remove it from the table or archive "
            "that has it."
        )
    return name


def local_path(uri: str) -> str | None:
    """The absolute path that a path or a `file://` URI stands for; None for any other URI."""
    if uri.startswith("file://"):
        return urllib.parse.unquote(urllib.parse.urlsplit(uri).path)
    return None if "://" in uri else os.path.abspath(uri)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URI, and the path in that file system.

    Raises `UserError` for a URI that pyarrow does not know.
    """
    local = local_path(uri)
    if local is not None:
        return pafs.LocalFileSystem(), local
    if urllib.parse.urlsplit(uri).password or "secret_key=" in uri:
        # It would be in config.yaml, in logs and in the cluster's job metadata.
        raise UserError(
            f"A URI of {uri.partition(':')[0]}:// has a key in it; take it out and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where Ray is started."
        )
    try:
        return pafs.FileSystem.from_uri(urllib.parse.quote(uri, safe=":/?&=%@+~!$,;"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{uri} cannot be opened ({reason(error)}); use a path, s3:// or gs://."
        ) from error


def local_copy(uri: str) -> str:
    """The path of a local file with the same content.

    That is the file itself if it is local, else a copy that each node downloads once
    (`buckets.node_copy`). Raises `FileNotFoundError` if a remote file does not exist.
    """
    local = local_path(uri)
    return copied_file(uri, *filesystem(uri)) if local is None else local


def local_version(spec: str) -> str:
    """A path for what may be a path or the URI of a file or folder: a URI's copy on this node.

    Raises `UserError` for a URI at which there is nothing.
    """
    if "://" not in spec:
        return spec
    local = local_path(spec)
    return copied(spec, *filesystem(spec)) if local is None else local


def local_folder(spec: str, only: Container[str]) -> str:
    """The same for a folder, of which a copy has only what `only` names. It may be empty."""
    return spec if "://" not in spec else Folder(spec).fetch(only)


@contextlib.contextmanager
def writing(uri: str, keep: bool = False) -> Iterator[str]:
    """Gives the path of a local file, which becomes the file `uri` when the block ends.

    After an error in the block the file is removed and `uri` stays as it was. With `keep` the file
    becomes this node's copy of a remote `uri`, so that the writer does not download it again.
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
            pafs.copy_files(temporary, path, destination_filesystem=remote)
            if keep:
                keep_as_copy(temporary, uri, remote, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
