"""Options of the group `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffmix.options.markers import Path, Usual


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What `diffmix export` writes, and where."""

    format: Usual[
        Literal[
            "imagefolder",
            "webdataset",
            "reference",
            "reference-concept",
            "peft-concept",
            "classifier",
        ]
    ] = "imagefolder"
    """Layout: three are of mixes, two of the concept, one of the classifier. `imagefolder` is
    Hugging Face's with a data card, `webdataset` are shards, `reference` is the reference
    implementation's. `reference-concept` has the reference's files (LoRA in attention-processor
    naming), `peft-concept` peft's LoRA. `classifier` is for timm and the hub, with a model card.
    """
    to: Usual[Path] = ""
    """Empty or new folder to write to: a local path, s3:// or gs://."""
    rejected: Usual[bool] = False
    """Also export the mixes that the gate rejected."""
    marked: Usual[bool] = False
    """Write into each exported mix that it is synthetic. It is in EXIF's `Software`, and in IPTC's
    `DigitalSourceType` in XMP. Pixels stay as they are. False: files are the store's bytes.
    """
