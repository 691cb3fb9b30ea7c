"""The format version that the files of a run folder carry, so that an old or a new folder is never
misread.

A change of what a reader must know raises `FORMAT_VERSION` by one. If the readers still understand
the older files, `OLDEST_READ` stays; otherwise it rises too, and older folders are refused by name.

| version | what changed |
| --- | --- |
| 1 | files without a version |
| 2 | the version itself: the key `format_version`; `gate.json` names the kind of its gate |

`data.json` speaks for the images beside it, `plan.json` for the parts of the mix store, and
`model.json` for the weights and `confusion.json`.
"""

from __future__ import annotations

from diffmix.errors import UserError

KEY = "format_version"
FORMAT_VERSION = 2
"""What is written now."""
OLDEST_READ = 1
"""The oldest version that is still read."""


def with_version(values: dict) -> dict:
    """`values` as they are written: with the format version as the first key."""
    return {KEY: FORMAT_VERSION, **values}


def without_version(values: dict, file: str) -> dict:
    """`values` as they were read from `file`, without their format version.

    Raises `UserError` for a version that this program cannot read. `file` names the file in it.
    """
    version = values.get(KEY, 1)
    if version != FORMAT_VERSION:
        _check_version(version, file)
    return {key: value for key, value in values.items() if key != KEY}


def _check_version(version: object, file: str) -> None:
    if not isinstance(version, int) or version < 1:
        raise UserError(
            f"{file} has the {KEY} {version!r}, which is not a version; restore the file or choose "
            "another --out."
        )
    if version > FORMAT_VERSION:
        raise UserError(
            f"{file} has format version {version}, but this diffmix reads versions "
            f"{OLDEST_READ} to {FORMAT_VERSION}; update diffmix or choose another --out."
        )
    if version < OLDEST_READ:
        raise UserError(
            f"{file} has format version {version}, but this diffmix reads versions "
            f"{OLDEST_READ} to {FORMAT_VERSION}; use an older diffmix or choose another --out."
        )
