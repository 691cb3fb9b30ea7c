"""Unix sockets below a long temporary folder. The kernel takes their paths up to 107 bytes."""

from __future__ import annotations

import atexit
import logging
import multiprocessing.process
import os
import shutil
import sys
import tempfile

from diffmix.errors import UserError

log = logging.getLogger(__name__)

LONGEST = 103 if sys.platform == "darwin" else 107
"""Bytes of the path of a socket."""
USUAL = "/tmp"
"""The folder that takes the place of a longer one."""

_OF_RAY = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_OF_PYTHON = "pymp-00000000/listener-00000000"


def fits(folder: str, name: str) -> bool:
    """Whether a socket called `name` can be below a folder."""
    return len(os.path.join(folder, name).encode()) <= LONGEST


def ray_folder() -> str | None:
    """Where Ray's sessions go if Ray is started on this machine. None: where Ray puts them itself.

    Raises `UserError` where the sockets fit in no folder that may be taken.
    """
    asked = os.environ.get("RAY_TMPDIR")
    folder = asked or (os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None)
    if folder is None or fits(folder, _OF_RAY):
        return None
    most = LONGEST - len(os.path.join("", _OF_RAY)) - 1
    if asked or not os.access(USUAL, os.W_OK):
        raise UserError(
            f"The temporary folder {folder} has a path of {len(folder.encode())} bytes, but Ray's "
            f"sockets fit below one of at most {most}; set RAY_TMPDIR to a shorter one."
        )
    log.warning(
        "Ray's session is kept in %s/ray, because the path of TMPDIR has %d bytes and Ray's "
        "sockets fit below one of at most %d; RAY_TMPDIR names another place.",
        USUAL,
        len(folder.encode()),
        most,
    )
    return os.path.join(USUAL, "ray")


def shorten_listeners() -> None:
    """Let this process's DataLoader workers start where the temporary folder has a long path.

    Python does so itself from 3.14 on. Called before the first of them starts.
    """
    settings = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    if "tempdir" not in settings and not fits(tempfile.gettempdir(), _OF_PYTHON):
        settings["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir=USUAL)
        atexit.register(shutil.rmtree, settings["tempdir"], ignore_errors=True)
