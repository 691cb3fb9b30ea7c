"""Personalize and mix in this process, without Ray, into a folder of PNG files.

    .venv/bin/python examples/mix_without_a_cluster.py runs/by_hand

The mixes go to `mixes/data/<source>/<target>-<number>-<strength>.png`, the layout of the paper's
code, which `train_on_foreign_mixes.py` trains on. About two minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from diffmix.config import DataConfig, MixConfig, ModelConfig, PersonalizeConfig
from diffmix.datasets.prepare import prepare
from diffmix.generator.mixer import Mixer
from diffmix.personalize.train import train_concept
from diffmix.plan import MixPlan


def main(out: str, steps: int, mixes: int) -> None:
    real = prepare(DataConfig(train="nano", shots=10), out).train
    model = ModelConfig(base="nano")
    # What jobs/recipes/nano/demo.yaml has: nano wants other settings than Stable Diffusion.
    personalize = PersonalizeConfig(
        steps=steps, batch_size=16, lora_rank=8, lora_lr=5e-4, token_lr=4e-2, flip=False
    )
    concept = train_concept(model, personalize, real, f"{out}/concept", seed=0)

    mix = MixConfig(
        strength=(0.7, 0.9), count=mixes, batch=16, guidance_scale=5.0, num_inference_steps=12
    )
    plan = MixPlan(mix, real.labels, real.image_ids, len(real.class_names), seed=0)
    mixer = Mixer(model, mix, real.class_names, real.superclass, concept.folder)
    for number in range(plan.num_chunks):
        specs = plan.chunk(number)
        sources = [real.image_bytes(real.index_of(spec.source_id)) for spec in specs]
        for spec, image in zip(specs, mixer.mix(specs, sources), strict=True):
            source = real.class_names[spec.source_label]
            target = real.class_names[spec.target_label]
            folder = Path(out, "mixes", "data", source)
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{target}-{spec.mix_id:06d}-{round(spec.strength, 2)}.png")
    print(f"{len(plan)} mixes of {len(real.class_names)} classes are in {out}/mixes.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=300, help="of personalization")
    parser.add_argument("--mixes", type=int, default=200)
    main(**vars(parser.parse_args()))
