"""`diffmix watch`: the view of a run that goes on elsewhere, from its events alone."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

import pyarrow.fs as pafs

from diffmix import storage
from diffmix.errors import UserError
from diffmix.format_version import KEY, without_version
from diffmix.storage import Folder
from engine.display import View
from engine.display.state import SILENT_SECONDS
from engine.display.terminal import say
from engine.listeners import METRICS_FILE, metrics_among

_LOCAL_SECONDS, _REMOTE_SECONDS = 1.0, 10.0
"""How often the files are looked at. A run writes it once a second, in an object store twice a
minute.
"""


def watch(
    uri: str,
    view: View,
    pause: Callable[[float], object] = time.sleep,
) -> str:
    """Show the run in a folder (path or URI) until it ends. Gives how it ended: `done`, `failed` or
    `interrupted`.

    `pause` waits so many seconds. Raises `UserError` for a folder that is not there.
    """
    folder = Folder(uri)
    if not uri or not folder.exists():
        raise UserError(f"{uri or 'The run folder'} does not exist; set --out to a run folder.")
    seconds = _LOCAL_SECONDS if folder.is_local else _REMOTE_SECONDS
    follower: Follower | None = None
    last, told = None, False
    with contextlib.closing(view):
        while True:
            running = _latest(folder)
            if running is None and not told:
                told = True
                say(f"nothing is recorded in {uri} yet; waiting for a run to begin there")
            if running is not None and (follower is None or running.uri != follower.folder.uri):
                follower = Follower(running)
            events = follower.new_events() if follower else []
            view.on_events(events)
            for event in events:
                last = event if event["event"] in ("start", "end") else last
            if last is not None and last["event"] == "end" and _is_last(folder, running):
                return last["outcome"]
            if running is not None and not events and _ended_silently(running):
                return "done"
            pause(seconds)


def _latest(folder: Folder) -> Folder | None:
    """The folder itself, or the seed that a run over several seeds is at; None before it begins."""
    if folder.exists(METRICS_FILE):
        return folder
    begun = [folder / name for name in _seeds(folder) if (folder / name).exists(METRICS_FILE)]
    return max(begun, key=_modified) if begun else None


def _is_last(folder: Folder, running: Folder | None) -> bool:
    """Whether nothing follows: a run over several seeds writes its own summary at the end."""
    return running is None or running.uri == folder.uri or folder.exists("summary.json")


def _ended_silently(running: Folder) -> bool:
    """Whether a run has finished long ago without saying so, as older versions did."""
    old = time.time() - _modified(running) / 1e9 > SILENT_SECONDS
    return old and running.exists("summary.json")


def _seeds(folder: Folder) -> list[str]:
    return [name for name in folder.names() if name.startswith("seed-")]


def _modified(folder: Folder) -> float:
    """When a run's events were last written, in nanoseconds since 1970; 0 without any."""
    return max((info.mtime_ns or 0 for info in _metrics(folder).values()), default=0)


def _metrics(folder: Folder) -> dict[str, pafs.FileInfo]:
    """A run's files of events by name, in the order in which they were begun."""
    remote, path = storage.filesystem(folder.uri)
    selected = remote.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    infos = {info.base_name: info for info in selected if info.type == pafs.FileType.File}
    return {name: infos[name] for name in metrics_among(infos)}


class Follower:
    """Reads what is new in a run's `metrics.jsonl` and its later parts. Owned by one call of
    `watch`.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self._read: dict[str, int] = {}  # bytes, by file
        self._rest = b""

    def new_events(self) -> list[dict]:
        """The events since the last call. A line that is not whole yet is left for the next one."""
        sizes = {name: info.size for name, info in _metrics(self.folder).items()}
        if any(sizes.get(name, 0) < read for name, read in self._read.items()):
            self._read, self._rest = {}, b""  # another run's files are in their place
        events: list[dict] = []
        for name, size in sizes.items():
            read = self._read.get(name, 0)
            if size == read:
                continue
            if read == 0:
                self._rest = b""  # of the part before, which a killed writer cut off
            try:
                with self.folder.open(name) as file:
                    file.seek(read)
                    data = file.read(size - read)
            except OSError:  # an object store replaces the file: the next call reads it
                break
            self._read[name] = read + len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            events += self._parsed(lines)
        return events

    def _parsed(self, lines: list[bytes]) -> Iterator[dict]:
        for line in lines:
            with contextlib.suppress(ValueError):  # a killed writer cut it off
                event = json.loads(line)
                if KEY in event:
                    without_version(event, f"{self.folder.uri}/{METRICS_FILE}")
                yield event
