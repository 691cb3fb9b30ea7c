"""A strategy of one's own: guidance leads away from the source class.

    .venv/bin/python examples/mix_without_a_cluster.py runs/by_hand
    .venv/bin/python examples/own_strategy.py runs/by_hand away.png

makes the same four mixes with `diff-mix` and with this strategy, and shows them side by side.
A whole job takes the strategy by its module and name; the module has to be importable in every
worker:

    PYTHONPATH=examples .venv/bin/diffmix run --mix.strategy own_strategy:AWAY ...

docs/extending.md has everything that a strategy may decide.
"""

from __future__ import annotations

import sys

from diffmix import images
from diffmix.config import MixConfig, ModelConfig
from diffmix.datasets.real import RealSet
from diffmix.generator.mixer import Mixer
from diffmix.plan import MixPlan
from diffmix.report.contact_sheet import Mixed, Row, mix_sheet
from diffmix.strategies import MixSpec, PromptContext, Strategy


def source_prompt(context: PromptContext, spec: MixSpec) -> str:
    """The source class's prompt."""
    return context.class_prompts[spec.source_label]


AWAY = Strategy(name="diff-mix-away", generator="concept", negative_prompt=source_prompt)


def main(run: str, out: str) -> None:
    real = RealSet.open(f"{run}/data/train.arrow")
    rows: list[Row] = []
    for strategy in ("diff-mix", "own_strategy:AWAY"):
        mix = MixConfig(
            strategy=strategy, count=4, batch=4, guidance_scale=5.0, num_inference_steps=12
        )
        plan = MixPlan(mix, real.labels, real.image_ids, len(real.class_names), seed=0)
        mixer = Mixer(
            ModelConfig(base="nano"), mix, real.class_names, real.superclass, f"{run}/concept"
        )
        specs = plan.chunk(0)
        sources = [images.decode(real.image_bytes(real.index_of(spec.source_id))) for spec in specs]
        made = mixer.mix(specs, sources)
        rows = rows or [
            Row(source, real.class_names[spec.source_label], [])
            for spec, source in zip(specs, sources, strict=True)
        ]
        for row, spec, image in zip(rows, specs, made, strict=True):
            row.mixes.append(Mixed(image, real.class_names[spec.target_label], spec.strength))
    mix_sheet(rows, "Source, diff-mix, away from the source").save(out)
    print(f"{out} shows {len(rows)} mixes with and without the strategy.")


if __name__ == "__main__":
    main(*sys.argv[1:])
