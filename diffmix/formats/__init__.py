"""Layouts of other programs: one module for each, with `found_in`, `write` and `read`.

They exchange `NamedMix`es. Classes are names here, because a label means nothing outside its data
set. Plans and labels stay with the mix store.
"""

from types import ModuleType

from diffmix.formats import imagefolder, reference, webdataset
from diffmix.storage import Folder

FORMATS: dict[str, ModuleType] = {
    "imagefolder": imagefolder,
    "webdataset": webdataset,
    "reference": reference,
}
"""Name in `--export.format` -> module."""


def detect(folder: Folder) -> str | None:
    """The name of the layout that a folder has, or None."""
    return next((name for name, layout in FORMATS.items() if layout.found_in(folder)), None)
