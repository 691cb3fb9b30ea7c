"""A folder that may be local, NFS, `s3://` or `gs://`, through `pyarrow.fs`."""

from __future__ import annotations

import builtins
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from diffmix.errors import UserError


class Folder:
    """Files of one folder, by name. Writes are atomic: a reader sees the whole file or none.

    Object stores show an object when it is complete; on a disk a file is written beside its place, synced and renamed.
    Holds no open files; cheap to make, picklable.
    """

    def __init__(self, uri: str):
        self.uri = uri if "://" in uri else os.path.abspath(uri)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri.rstrip('/')}/{name}")

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri or self.uri.startswith("file://")

    @property
    def path(self) -> str:
        """The path on this machine, or the path inside the object store."""
        return self._open()[1]

    def create(self) -> Folder:
        """Make the folder; `UserError` where that is not allowed or a file is in the way."""
        filesystem, path = self._open()
        try:
            filesystem.create_dir(path, recursive=True)
            if self.is_local and not os.access(path, os.W_OK):
                raise PermissionError(f"no permission to write in {path}")
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"The folder {self.uri} cannot be made or written to ({_reason(error)}); choose another --out.") from error
        return self

    def exists(self, name: str = "") -> bool:
        filesystem, path = self._open()
        return filesystem.get_file_info(f"{path}/{name}" if name else path).type != pafs.FileType.NotFound

    def names(self) -> list[str]:
        """The names of the files and folders in it, sorted; none where it does not exist."""
        filesystem, path = self._open()
        infos = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def open(self, name: str) -> pa.NativeFile:
        """A file to read at random; the caller closes it."""
        filesystem, path = self._open()
        return filesystem.open_input_file(f"{path}/{name}")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write one file; `UserError` where the disk is full or writing is not allowed."""
        filesystem, path = self._open()
        try:
            if not self.is_local:
                with filesystem.open_output_stream(f"{path}/{name}") as file:
                    file.write(data)
                return
            os.makedirs(path, exist_ok=True)
            temporary = f"{path}/.{name}.{os.getpid()}.tmp"
            try:
                with builtins.open(temporary, "wb") as local:
                    local.write(data)
                    local.flush()
                    os.fsync(local.fileno())
                os.replace(temporary, f"{path}/{name}")
            except OSError:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise UserError(f"{self.uri}/{name} cannot be written ({_reason(error)}); free some space or choose another --out.") from error

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file. An object store cannot: there the file is read and written again, so append rarely."""
        if self.is_local:
            with builtins.open(f"{self.path}/{name}", "ab") as file:
                file.write(data)
        else:
            self.write(name, (self.read(name) if self.exists(name) else b"") + data)

    def fetch(self) -> str:
        """A local folder with the same files: itself where it is local, else a copy in a temporary folder."""
        if self.is_local:
            return self.path
        filesystem, path = self._open()
        target = tempfile.mkdtemp(prefix="diffmix-")
        pafs.copy_files(path, target, source_filesystem=filesystem)
        return target

    def upload(self, local: str) -> None:
        """Copy the files of a local folder into this one."""
        filesystem, path = self._open()
        filesystem.create_dir(path, recursive=True)
        pafs.copy_files(local, path, destination_filesystem=filesystem)

    def _open(self) -> tuple[pafs.FileSystem, str]:
        try:
            return pafs.FileSystem.from_uri(self.uri)
        except (pa.ArrowException, ValueError) as error:
            raise UserError(f"{self.uri} is not a folder that can be opened ({_reason(error)}); use a path, s3:// or gs://.") from error


def _reason(error: BaseException) -> str:
    """The error's own words, on one line."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__
