"""The lease of a run folder: one run works in it at a time.

The lease is a file `lease-N.json` that only one process can make: on a disk by a hard link, in an
S3 bucket by a conditional write. Its owner writes a new heartbeat into it every few seconds. A run
that finds another's lease looks whether its owner lives: on the same machine at once, by its
process; on another one by waiting for a heartbeat. Clocks are never compared. The lease of a dead
owner is taken over by making `lease-(N+1).json`. An owner that was only asleep then sees the higher
number and stops.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from diffmix.errors import UserError, reason
from diffmix.files.new_file import write_new
from diffmix.format_version import with_version
from diffmix.storage import Folder

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
PATIENCE_SECONDS = 4 * HEARTBEAT_SECONDS
"""An owner on another machine that gives no heartbeat for so long is dead."""

_NAME = re.compile(r"lease-(\d{6})\.json")
_held: set[str] = set()
"""Ids of the leases that this process holds. One that it could not delete is nobody's."""


@dataclass
class _Lease:
    """A lease that this process holds. `held` owns it."""

    out: Folder
    number: int
    owner: dict[str, Any]
    lost: bool = False
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return _name(self.number)

    def beat(self) -> None:
        """Renew the lease until `stop`. Where another run has taken it over, interrupt this one."""
        beats = 0
        while not self.stop.wait(HEARTBEAT_SECONDS):
            beats += 1
            try:
                found = _current(self.out)
                if found is None or found[1].get("id") != self.owner["id"]:
                    self.lost = True
                    # A real signal: it also ends the wait for a lock that the main thread is in.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    return
                self.out.write(self.name, _text({**self.owner, "beat": beats}))
            except (OSError, UserError) as error:  # the next beat tries again
                log.warning("The lease of %s was not renewed: %s", self.out.uri, reason(error))


@contextlib.contextmanager
def held(out: Folder) -> Iterator[None]:
    """Hold the lease of a run folder during the block.

    Raises `UserError` where a run that lives holds it, and where another run has taken it over
    meanwhile.
    """
    lease = _acquire(out)
    thread = threading.Thread(target=lease.beat, daemon=True, name="lease")
    thread.start()
    try:
        try:
            yield
        except KeyboardInterrupt:
            if not lease.lost:
                raise
        # Without an interrupt too: a process that a shell has started in the background ignores it.
        if lease.lost:
            raise UserError(
                f"Another run has taken over {out.uri} while this one gave no sign of life; let "
                "that one finish, or choose another --out."
            )
    finally:
        lease.stop.set()
        thread.join()
        _held.discard(lease.owner["id"])
        if not lease.lost:
            with contextlib.suppress(OSError):
                out.delete(lease.name)


def _acquire(out: Folder) -> _Lease:
    while True:
        found = _current(out)
        if found is not None:
            _wait_for_death(out, *found)
        number = found[0] + 1 if found else 1
        lease = _Lease(out, number, _owner())
        if write_new(out, lease.name, _text(lease.owner)):
            _held.add(lease.owner["id"])
            _remove_older(out, number)
            return lease
        # Another run was faster: look at its lease.


def _wait_for_death(out: Folder, number: int, owner: dict) -> None:
    """Return when the owner of a lease is known to be dead. `UserError` where it lives."""
    if owner.get("machine") == _machine():
        if _is_alive(owner):
            raise _in_use(out, owner)
        return
    if "machine" in owner:
        log.warning(
            "%s was last used by process %s on %s; waiting %.0f s for a sign of life.",
            out.uri,
            owner.get("pid"),
            owner.get("host"),
            PATIENCE_SECONDS,
        )
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        threading.Event().wait(min(HEARTBEAT_SECONDS, PATIENCE_SECONDS) / 4)
        found = _current(out)
        if found is None:
            return
        if found != (number, owner):
            raise _in_use(out, found[1])


def _in_use(out: Folder, owner: dict) -> UserError:
    return UserError(
        f"{out.uri} is in use by another run (process {owner.get('pid')} on {owner.get('host')}); "
        "wait until it is done, or choose another --out."
    )


def _current(out: Folder) -> tuple[int, dict] | None:
    """The highest lease's number and content; None for a folder that nobody holds."""
    numbers = [int(match[1]) for name in out.names() if (match := _NAME.fullmatch(name))]
    if not numbers:
        return None
    try:
        return max(numbers), json.loads(out.read(_name(max(numbers))))
    except FileNotFoundError:  # its owner has just given it back
        return _current(out)
    except ValueError:
        return max(numbers), {}


def _remove_older(out: Folder, number: int) -> None:
    for name in out.names():
        match = _NAME.fullmatch(name)
        if match and int(match[1]) < number:
            with contextlib.suppress(OSError):
                out.delete(name)


def _owner() -> dict:
    """Who this process is. `machine` also tells containers with the same host name apart."""
    process = psutil.Process()
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": process.pid,
        "process_started": _started(process),
        "beat": 0,
    }


def _machine() -> str:
    boot = ""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    space = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return f"{socket.gethostname()}/{boot or psutil.boot_time()}/{space}"


def _is_alive(owner: dict) -> bool:
    """Whether the process of this machine that took the lease still runs and holds it."""
    if owner.get("pid") == os.getpid() and owner.get("id") not in _held:
        return False
    try:
        process = psutil.Process(owner["pid"])
        # A zombie has ended; its parent has only not asked yet.
        started = abs(_started(process) - owner["process_started"]) < 2.0
        return started and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _started(process: psutil.Process) -> float:
    """When a process started, in seconds since the machine did. Linux counts so; the time of day
    that psutil makes of it changes when the clock is set.
    """
    return process.create_time() - (psutil.boot_time() if psutil.LINUX else 0.0)


def _name(number: int) -> str:
    return f"lease-{number:06d}.json"


def _text(owner: dict) -> bytes:
    return json.dumps(with_version(owner)).encode()
