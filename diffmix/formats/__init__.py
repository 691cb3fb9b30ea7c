"""Layouts other than our own mix store: one module for each, with `found_in`, `write` and `read`.

Tables and labels stay with the store. What travels here is a `NamedMix`, whose classes are names,
because a label means nothing outside its data set.
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
    """The name of the layout that a folder has; None where it has none of them."""
    return next((name for name, layout in FORMATS.items() if layout.found_in(folder)), None)
