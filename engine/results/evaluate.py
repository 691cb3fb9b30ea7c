"""Testing a finished run's classifier."""

from __future__ import annotations

import numpy as np

from diffmix.classifier.metrics import by_class_size
from diffmix.config import Config, EvaluateConfig
from diffmix.config_check import check
from diffmix.datasets.real import RealSet
from diffmix.devices import inference_device
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.training.classifier_loop import evaluate as evaluate_folder


def evaluate(config: Config) -> dict:
    """Accuracy of the classifier in `out` on the run's test set, and with `evaluate.mixes` the
    mixes' figures under `mixes`.

    Needs no cluster. A folder without a classifier will do where only mixes are asked for.
    """

    from diffmix.datasets.prepare import prepare

    check(config)
    out = Folder(config.out)
    tested = (out / "classifier").exists("model.json")
    if not config.out or not (tested or config.evaluate.mixes):
        raise UserError(
            f"{config.out or 'The run folder'} holds no classifier; set --out to a folder that `diffmix run` or `diffmix train` has finished."
        )
    device = inference_device()
    data = prepare(config.data, out.uri)
    result: dict = {}
    if tested:
        result, _ = evaluate_folder((out / "classifier").uri, data.test.path, device)
        result = with_class_sizes(result, data.train, config.evaluate)
    if config.evaluate.mixes:
        from engine.results.faithfulness import measure_mixes

        result["mixes"] = measure_mixes(config, data.train, device)
    return result


def with_class_sizes(result: dict, train: RealSet, groups: EvaluateConfig) -> dict:
    """`result` with `per_size`, the accuracy of classes that have many, medium or few images in
    `train`, where these differ.
    """
    sizes = np.bincount(train.labels, minlength=len(train.class_names))
    found = by_class_size(result.get("per_class", {}), sizes, groups.many_above, groups.few_below)
    return {**result, "per_size": found} if found else result
