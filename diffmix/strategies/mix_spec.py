"""What is known of a mix before it is made."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class MixSpec:
    """One mix to make."""

    mix_id: int
    """0..n-1"""
    source_id: str
    """`image_id` of the real image that is translated. Empty for a mix from noise."""
    source_label: int
    target_label: int
    strength: float
    """In (0, 1]; exactly a float32."""
    seed: int
    """Seed of this mix's own noise, 0..2**62-1."""


SPEC_COLUMNS = [field.name for field in fields(MixSpec)]
"""Names of a spec's fields: the columns that a mix store begins with."""
