"""Files and folders that programs leave beside images: they are ignored by name, and counted."""

from __future__ import annotations

import os
import re

HIDDEN = "hidden"
THUMBNAILS = "thumbnails"
SYSTEM = "of the operating system or file server"
SIDE_CARS = "side-cars of cameras and editors"
RAW_FILES = "camera raw files"
UNFINISHED = "unfinished or backup copies"

# Synology, QNAP, GNOME, Picasa, Windows; all in lower case.
_THUMBNAIL_NAMES = {"@eadir", ".@__thumb", ".thumbnails", ".thumbs", ".picasaoriginals"}
_THUMBNAIL_NAMES |= {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "zbthumbnail.info"}
_SYSTEM_NAMES = {"__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"}
_SYSTEM_NAMES |= {"#recycle", "@recycle", "#snapshot", "~snapshot", "@recently-snapshot"}
_SYSTEM_NAMES |= {"@sharebin", "@tmp", "network trash folder", "temporary items", "icon\r"}
_SYSTEM_NAMES |= {"desktop.ini", "_vti_cnf", "__pycache__"}
_SIDE_CARS = {".xmp", ".aae", ".thm", ".lrv", ".dop", ".pp3", ".on1", ".cos", ".nksc", ".vrd"}
_SIDE_CARS |= {".moff", ".modd", ".lnk", ".url"}
_RAW_FILES = {".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".dng", ".orf"}
_RAW_FILES |= {".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".erf", ".kdc", ".mrw", ".iiq"}
_UNFINISHED = {".part", ".partial", ".crdownload", ".download", ".tmp", ".swp"}
_THUMBNAIL_FILE = re.compile(r"syno(photo|file)_thumb", re.IGNORECASE)
_THUMBNAIL_OF = re.compile(r"(?i:thumb(nail)?[_-](?P<a>.+)|(?P<b>.+)[_.-]thumb(nail)?(?P<c>\.\w+))")
# Folders with these names hold thumbnails where they lie in a class's folder.
_THUMBNAIL_FOLDERS = {"thumbs", "thumb", "thumbnails", "thumbnail", "_thumbs", "_thumbnails"}


def reason(name: str, is_folder: bool) -> str | None:
    """Why a file or folder of this name is ignored. None: it may be an image, or hold one."""
    lower, suffix = name.lower(), os.path.splitext(name)[1].lower()
    if lower in _THUMBNAIL_NAMES or _THUMBNAIL_FILE.match(name):
        return THUMBNAILS
    if lower in _SYSTEM_NAMES or lower.startswith("@syno") or name.endswith("@SynoEAStream"):
        return SYSTEM
    if name.startswith("."):
        return HIDDEN
    if is_folder:
        return None
    if name.endswith(":Zone.Identifier"):
        return SYSTEM
    if suffix in _SIDE_CARS:
        return SIDE_CARS
    if suffix in _RAW_FILES:
        return RAW_FILES
    if suffix in _UNFINISHED or name.endswith("~") or name.startswith("~$"):
        return UNFINISHED
    return None


def is_thumbnail_of(name: str, names: set[str]) -> bool:
    """Whether a file is named as the thumbnail of one of the files beside it: `thumb_1.jpg` where
    there is `1.jpg`.
    """
    found = _THUMBNAIL_OF.fullmatch(name)
    return found is not None and (found["a"] or f"{found['b']}{found['c']}") in names


def is_thumbnail_folder(name: str) -> bool:
    """Whether a folder inside a class's folder holds thumbnails."""
    return name.lower() in _THUMBNAIL_FOLDERS


def other_kind(name: str, what: str = "no images") -> str:
    """How a file that is none of those that are read is counted: by its suffix."""
    suffix = os.path.splitext(name)[1].lower()
    return f"{what} ({suffix})" if re.fullmatch(r"\.\w{1,8}", suffix) else what
