"""Options of the group `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class ExportConfig:
    """`diffmix export`: OUT's mixes or concept in another layout."""

    format: Literal[
        "imagefolder", "webdataset", "reference", "reference-concept", "peft-concept"
    ] = "imagefolder"
    """Mixes as a Hugging Face imagefolder, as WebDataset shards or as the reference implementation
    writes them; or the concept in the reference's files (old attention-processor LoRA) or with
    peft's LoRA.
    """
    to: str = ""
    """Folder that it goes to, which must be empty: a local path, s3:// or gs://."""
    rejected: bool = False
    """Also export the mixes that the gate rejected."""
