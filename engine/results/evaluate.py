"""`diffmix evaluate`: a finished run's classifier on its test set, and a sample of its mixes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from diffmix.classifier.metrics import by_class_size, evaluate_folder
from diffmix.config import Config, EvaluateConfig, images_of
from diffmix.config_check import check
from diffmix.datasets.prepare import prepare
from diffmix.datasets.real import RealSet
from diffmix.devices import inference_device
from diffmix.errors import UserError
from diffmix.faithfulness import StoredMix, faithfulness, load_features
from diffmix.gates.clip_model import load_clip
from diffmix.storage import Folder
from engine.mixing.store import MixStore


def evaluate_run(config: Config) -> dict:
    """Accuracy of the classifier in `out` on the run's test set, and with `evaluate.mixes` the
    mixes' figures under `mixes`. Needs no cluster.

    `UserError` where there is no classifier, unless only mixes are asked for.
    """
    check(config)
    out = Folder(config.out)
    tested = (out / "classifier").exists("model.json")
    if not config.out or not (tested or config.evaluate.mixes):
        raise UserError(
            f"{config.out or 'The run folder'} holds no classifier; set --out to a folder that "
            "`diffmix run` or `diffmix train` has finished."
        )
    device = inference_device()
    data = prepare(images_of(config), out.uri)
    result: dict = {}
    if tested:
        result, _ = evaluate_folder((out / "classifier").uri, data.test.path, device)
        result = with_class_sizes(result, data.train, config.evaluate)
    if config.evaluate.mixes:
        result["mixes"] = measure_mixes(config, data.train, device)
    return result


def with_class_sizes(result: dict, train_images: RealSet, groups: EvaluateConfig) -> dict:
    """`result` with `per_size`, the accuracy of classes with many, medium or few training images,
    where these differ.
    """
    sizes = np.bincount(train_images.labels, minlength=len(train_images.class_names))
    found = by_class_size(result.get("per_class", {}), sizes, groups.many_above, groups.few_below)
    return {**result, "per_size": found} if found else result


def measure_mixes(config: Config, real: RealSet, device: str) -> dict:
    """Faithfulness and diversity of `evaluate.mixes` of the run folder's accepted mixes, in this
    process; see `diffmix.faithfulness`.

    `UserError` where there are no mixes, and for a CLIP or feature extractor that cannot be had.
    """
    store = MixStore((Folder(config.out) / "mixes").uri)
    if not store.stored_chunks():
        raise UserError(
            f"{config.out} holds no mixes to measure; make some with diffmix synthesize or leave "
            "out --evaluate.mixes."
        )
    clip = load_clip(config.gate.clip, device) if config.gate.clip else None
    extractor = load_features(config.evaluate.features, clip, device)
    mixes = sample_mixes(store, config.evaluate.mixes, config.run.seed)
    return faithfulness(mixes, real, extractor, clip)


def sample_mixes(store: MixStore, count: int, seed: int) -> Iterator[list[StoredMix]]:
    """`count` accepted mixes, or all where there are fewer, part by part. Whole parts are drawn at
    random, so that few are read.
    """
    columns = [field.name for field in fields(StoredMix)]
    for chunk in np.random.default_rng(seed).permutation(sorted(store.stored_chunks())):
        table = store.read(int(chunk), [*columns, "accepted"])
        accepted = table.filter(table["accepted"]).select(columns)
        rows = accepted.slice(0, count).to_pylist()
        count -= len(rows)
        if rows:
            yield [StoredMix(**row) for row in rows]
        if not count:
            return
