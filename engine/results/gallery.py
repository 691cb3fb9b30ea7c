"""The gallery of a run's report: a sample of its mixes, their sources, and the test images that the
classifier took for another class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from diffmix import images, labels, strategies
from diffmix.config import Config
from diffmix.datasets.prepare import Prepared
from diffmix.datasets.real import RealSet
from diffmix.errors import UserError
from diffmix.generator.concept import Concept, prompt
from diffmix.report.gallery import Gallery, ShownMix, ShownTest
from diffmix.storage import Folder
from diffmix.strategies.mix_spec import MixSpec
from diffmix.strategies.strategy import PromptContext
from engine.mixing.mix_source import MixSource

MOST_MIXES = 600
MOST_LOSSES = 200
"""Of the mixes shown, on a machine without CUDA."""
MOST_TESTS, TESTS_OF_A_CELL = 400, 6
"""Wrong test images, those of the most frequent pairs of classes first; and of one pair."""
PREDICTIONS_FILE = "predictions.json"
_BATCH = 50


def make_gallery(config: Config, out: Folder, data: Prepared, source: MixSource | None) -> Gallery:
    """The gallery of what there is. Reads only the parts that it shows."""
    mixes, rule = _sample(config, out, data, source) if source else ([], "")
    sources = _sources(mixes, data.train)
    return Gallery(
        mixes=mixes, sources=sources, tests=_confused(out / "classifier", data.test), rule=rule
    )


def _sample(
    config: Config, out: Folder, data: Prepared, source: MixSource
) -> tuple[list[ShownMix], str]:
    """Mixes of whole parts, evenly spaced, so that few parts are read; and the rule in words."""
    store = source.store
    chunks = sorted(store.stored_chunks())
    total = sum(store.counts())
    step = max(-(-total // MOST_MIXES), 1)
    rows = [row for chunk in chunks[::step] for row in store.read(chunk).to_pylist()]
    places = np.linspace(0, len(rows) - 1, min(len(rows), MOST_MIXES)).round().astype(int)
    shown = [rows[place] for place in places]
    rule = f"All {total} are here."
    if len(shown) < total:
        rule = f"{len(shown)} of {total} are here: those of every {_ordinal(step)} stored part."
    losses = _losses(out / "classifier", data.train.class_names, shown, config)
    if any(loss is not None for loss in losses) and None in losses:
        rule += f" The classifier's loss is known for {sum(x is not None for x in losses)} of them."
    prompts = _prompts(config, out, data.train)
    made = []
    for row, loss in zip(shown, losses, strict=True):
        soft = _soft_label(config, row, len(data.train.class_names))
        made.append(
            ShownMix(
                mix_id=row["mix_id"],
                source=row["source_label"],
                target=row["target_label"],
                strength=row["strength"],
                target_share=float(soft[row["target_label"]]),
                label_sum=float(soft.sum()),
                seed=row["seed"],
                score=row["score"],
                accepted=row["accepted"],
                loss=loss,
                prompt=prompts(row) if prompts else None,
                image=row["image"],
                source_id=row["source_id"] or "",
            )
        )
    return made, rule


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def _soft_label(config: Config, row: dict, classes: int) -> np.ndarray:
    return labels.soft_label(
        row["source_label"],
        row["target_label"],
        row["strength"],
        config.mix.gamma,
        classes,
        config.mix.soft_scale,
    )


def _losses(
    classifier: Folder, class_names: list[str], rows: Sequence[dict], config: Config
) -> list[float | None]:
    """The classifier's soft cross-entropy on each mix; None where it was not measured."""
    none: list[float | None] = [None] * len(rows)
    if not rows or not classifier.exists("model.json"):
        return none
    import torch

    from diffmix.classifier.model import load_classifier
    from diffmix.classifier.transforms import eval_transform
    from diffmix.devices import inference_device

    device = inference_device()
    model, description = load_classifier(classifier, device)
    if description.class_names != class_names:
        return none
    transform = eval_transform(description)
    measured = range(len(rows))
    if device == "cpu":
        measured = measured[:: -(-len(rows) // MOST_LOSSES)]
    parameter = next(model.parameters())
    numbers = iter(measured)
    while batch := list(islice(numbers, _BATCH)):
        soft = [_soft_label(config, rows[number], len(class_names)) for number in batch]
        pictures = [transform(images.decode(rows[number]["image"])) for number in batch]
        with torch.inference_mode():
            logits = model(torch.stack(pictures).to(parameter.device, parameter.dtype)).float()
            wanted = torch.tensor(np.stack(soft), device=logits.device)
            found = (-(wanted * logits.log_softmax(1)).sum(1)).cpu().tolist()
        for number, loss in zip(batch, found, strict=True):
            none[number] = loss
    return none


def _prompts(config: Config, out: Folder, real: RealSet) -> Callable[[dict], str] | None:
    """What guidance led each mix to, as a function of its row; None where that is not known."""
    try:
        strategy = strategies.find(config.mix.strategy)
        given = config.personalize.concept
        folder = Folder(given) if given else out / "concept"
        concept = None
        if strategy.uses_concept:
            concept = Concept.load(folder.fetch())
        tokens = [concept.token(name) if concept else None for name in real.class_names]
        template = config.personalize.prompts[0]
        context = PromptContext(
            class_names=real.class_names,
            superclass=real.superclass,
            tokens=tokens,
            class_prompts=[
                prompt(template, token, name, real.superclass)
                for token, name in zip(tokens, real.class_names, strict=True)
            ],
            negative_prompt=config.mix.negative_prompt,
        )
    except (UserError, OSError, KeyError, IndexError):  # a composed store has no concept
        return None
    return lambda row: strategy.prompt(context, MixSpec(**{k: row[k] for k in _SPEC}))


_SPEC = ("mix_id", "source_id", "source_label", "target_label", "strength", "seed")


def _sources(mixes: Sequence[ShownMix], real: RealSet) -> dict[str, bytes]:
    """The real images that the mixes were made from, where this run has them."""
    known = set(real.image_ids)
    wanted = dict.fromkeys(mix.source_id for mix in mixes if mix.source_id in known)
    return {source_id: real.image_bytes(real.index_of(source_id)) for source_id in wanted}


def _confused(classifier: Folder, test: RealSet | None) -> list[ShownTest]:
    """Test images that were taken for another class: some of each pair of classes."""
    if test is None or not classifier.exists(PREDICTIONS_FILE):
        return []
    predicted = json.loads(classifier.read(PREDICTIONS_FILE))
    if len(predicted) != len(test):
        return []  # of another test set
    cells: dict[tuple[int, int], list[int]] = {}
    for number, pair in enumerate(zip(test.labels.tolist(), predicted, strict=True)):
        if pair[0] != pair[1]:
            cells.setdefault(pair, []).append(number)
    largest = sorted(cells.items(), key=lambda cell: (-len(cell[1]), cell[0]))
    found = []
    for (label, taken_for), numbers in largest:
        for number in numbers[:TESTS_OF_A_CELL]:
            file, name = test.image_bytes(number), test.image_ids[number]
            found.append(ShownTest(image_id=name, label=label, taken_for=taken_for, image=file))
    return found[:MOST_TESTS]
