"""Train a classifier on mixes that were made elsewhere.

    .venv/bin/python examples/mix_without_a_cluster.py runs/by_hand
    .venv/bin/python examples/train_on_foreign_mixes.py runs/by_hand/mixes runs/foreign

The first argument is a folder in the layout of the paper's code
(`data/<source>/<target>-<number>-<strength>.png`), a Hugging Face image folder with
`metadata.jsonl`, WebDataset shards, a mix store, or a run folder. `diffmix compose` and
`diffmix train` do the same on the command line.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from engine.mixing.compose import compose
from engine.run import run_training
from jobs.options import load


def main(mixes: str, out: str, epochs: int) -> None:
    config = load("jobs/recipes/nano/demo.yaml")
    config = replace(
        config,
        out=out,
        compose=replace(config.compose, stores=(mixes,)),
        train=replace(config.train, epochs=epochs, eval_every=epochs, baseline=False),
    )
    composed = compose(config)
    print(f"{composed['planned']} mixes of {composed['composed'][0]['format']} layout.")

    summary = run_training(config)
    print(f"share of mixes in training: {summary['trainer']['synthetic_share']:.2f}")
    print(
        f"top-1 on {summary['accuracy']['images']} test images: {summary['accuracy']['top1']:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mixes")
    parser.add_argument("out")
    parser.add_argument("--epochs", type=int, default=200)
    main(**vars(parser.parse_args()))
