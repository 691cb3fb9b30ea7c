"""What the sections' figures add up to."""

from __future__ import annotations

from benchmarks.cub_cost import MIXES, PERSONALIZE_SAMPLES, TRAIN_SAMPLES
from benchmarks.gpu.section import Context, Figures

_RATES = {
    "personalize": (PERSONALIZE_SAMPLES, ("personalization.samples_per_second",)),
    "mix": (MIXES, ("mixer.images_per_second", "mixer_compiled.images_per_second")),
    "train": (
        TRAIN_SAMPLES,
        ("loaders.images_per_second",),
    ),
}
"""Phase -> its units of work on full CUB, and the figures that have been measured for its rate."""


def full_cub(context: Context) -> Figures:
    """Minutes of the paper's CUB experiment on this GPU alone, one phase after the other."""
    total = 0.0
    for phase, (work, figures) in _RATES.items():
        rates = [context.known[figure] for figure in figures if figure in context.known]
        if not rates:
            raise LookupError(f"{' and '.join(figures)} were not measured in this folder")
        yield f"{phase}_minutes", work / max(rates) / 60
        total += work / max(rates) / 60
    yield "minutes", total
