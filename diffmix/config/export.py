"""Options of the group `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffmix.options.markers import Path, Usual


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What `diffmix export` writes, and where."""

    format: Usual[
        Literal["imagefolder", "webdataset", "reference", "reference-concept", "peft-concept"]
    ] = "imagefolder"
    """Layout: imagefolder, webdataset, reference, reference-concept or peft-concept. The first
    three are of mixes: Hugging Face's, WebDataset shards, and the reference implementation's. The
    other two are of the concept: the reference's files (LoRA in attention-processor naming), and
    peft's LoRA.
    """
    to: Usual[Path] = ""
    """Empty or new folder to write to: a local path, s3:// or gs://."""
    rejected: Usual[bool] = False
    """Also export the mixes that the gate rejected."""
