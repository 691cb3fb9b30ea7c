"""What is known of a mix before it is made."""

from __future__ import annotations

from typing import NamedTuple


class MixSpec(NamedTuple):
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
