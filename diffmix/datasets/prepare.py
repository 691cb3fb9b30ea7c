"""From the user's data set to validated, split images in the run folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import tempfile
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from diffmix.config import DataConfig
from diffmix.datasets.account import Account, Left, by_kind, left, some
from diffmix.datasets.class_names import alike, labels_of
from diffmix.datasets.decode import Decode, in_threads
from diffmix.datasets.duplicates import contradictions, said, twins
from diffmix.datasets.raw import Raw
from diffmix.datasets.real import RealSet
from diffmix.datasets.sources import Sources, find_sources
from diffmix.datasets.splits import Choice, choose, few_shot
from diffmix.datasets.valid import Skipped, Valid
from diffmix.errors import UserError, reason
from diffmix.files.remote_tree import said_of_its_origin
from diffmix.format_version import with_version, without_version
from diffmix.storage import Folder, local_path

_log = logging.getLogger(__name__)
_SETS = ("train", "val", "test")
# May differ between runs of one folder: the images themselves are compared.
_FREE_SETTINGS = ("train", "test", "max_bad_images")


@dataclass(frozen=True)
class Prepared:
    """The real images of a run. All sets have the same class names and superclass."""

    train: RealSet
    val: RealSet | None
    """None: nothing is held out, because `val_fraction` is 0 and the data set has no validation
    images.
    """
    test: RealSet
    account: Account | None = None
    """What became of all files. None: an older version prepared the run folder, and did not
    count.
    """


def prepare(config: DataConfig, out: str, decode: Decode = in_threads) -> Prepared:
    """Read, validate and split the images that `config` names, into
    `<out>/data/{train,val,test}.arrow` and `data.json`.

    - Every image is decoded once. Unreadable images are logged, skipped and counted.
    - The data set's own test and validation images are used if it has them; validation images alone
      become the test set. Otherwise stratified parts of the training images are held out.
    - `imbalance_factor` or `shots` reduce the training images; validation images come from what
      they leave. An image that few-shot sampling draws again gets the id `<id>#1`, then `<id>#2`.
    - What is left out, guessed or unusual is logged once, and kept in `data.json`.
    - A second call with the same `out` returns the same sets without decoding. If files look
      changed, all images are read again and must be the same.

    `out` is a local path or a URI (s3://, gs://), and so are the data sets. `decode` reads and
    checks the images, in this process or elsewhere. Raises `UserError` for data that cannot be used
    and for an `out` that was prepared with other settings or images.
    """
    if config.shots is not None and config.imbalance_factor is not None:
        raise UserError(
            "--data.shots and --data.imbalance_factor exclude each other; leave one of them out."
        )
    folder = f"{out.rstrip('/')}/data"
    saved = _saved(folder)
    if saved is not None:
        _check_settings(config, saved["settings"], out)
    with said_of_its_origin():
        return _prepared(config, out, folder, saved, decode)


def _prepared(
    config: DataConfig, out: str, folder: str, saved: dict | None, decode: Decode
) -> Prepared:
    sources = find_sources(config, out)
    if saved is not None and _is_unchanged(sources.raws, saved["stamps"]):
        if any(raw.stamp != saved["stamps"][name] for name, raw in sources.raws.items()):
            _log.warning(
                "%s was prepared by an older version, which knew images by their suffixes alone: "
                "images that are read now are missing in it, or thumbnails are in it.",
                out,
            )
        return _open(folder, saved)
    try:
        if saved is None:
            record = _build(config, sources, folder, decode)
        else:
            held_out_first = saved.get("held_out_first", True)
            with tempfile.TemporaryDirectory(dir=_local_folder(folder)) as scratch:
                record = _build(config, sources, scratch, decode, held_out_first)
            if record["fingerprints"] != saved["fingerprints"]:
                raise UserError(
                    f"The images of {config.train} are not those that {out} was made with; use "
                    "another --out."
                )
        text = json.dumps(with_version(record), indent=2, ensure_ascii=False)
        Folder(folder).write("data.json", text.encode())
    except OSError as error:  # of the run folder: unreadable sources are handled before
        raise UserError(
            f"The prepared images cannot be written to {folder}: {error.strerror or error}."
        ) from error
    if saved is None:
        for note in record["account"]["notes"]:
            _log.warning("%s", note)
    return _open(folder, record)


def _saved(folder: str) -> dict | None:
    try:
        saved = json.loads(Folder(folder).read("data.json"))
        return without_version(saved, f"{folder}/data.json")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{folder}/data.json is not valid JSON; use another --out.") from error
    except OSError as error:
        raise UserError(
            f"{folder}/data.json cannot be read: {reason(error)}; use another --out."
        ) from error


def _open(folder: str, record: dict) -> Prepared:
    sets = {name: RealSet.open(f"{folder}/{name}.arrow") for name in record["sizes"]}
    account = Account.from_json(record["account"]) if "account" in record else None
    return Prepared(sets["train"], sets.get("val"), sets["test"], account)


def _is_unchanged(raws: dict[str, Raw], stamps: dict[str, str]) -> bool:
    return raws.keys() == stamps.keys() and all(
        stamps[name] in (raw.stamp, raw.stamp_before) for name, raw in raws.items()
    )


def _check_settings(config: DataConfig, saved: dict, out: str) -> None:
    # What an older version had no option for, it did as the default does.
    saved = {**dataclasses.asdict(DataConfig()), **saved}
    for name, value in dataclasses.asdict(config).items():
        if name not in _FREE_SETTINGS and saved[name] != value:
            raise UserError(
                f"{out} was made with --data.{name} {saved[name]}, not {value}; go back to "
                "that or use another --out."
            )


def _build(
    config: DataConfig, sources: Sources, folder: str, decode: Decode, held_out_first: bool = False
) -> dict:
    """Validate, split and write; the content of `data.json`."""
    train = sources.raws["train"]
    class_names = train.class_names
    superclass = config.superclass or train.superclass or "object"
    skipped: Skipped = []
    with tempfile.TemporaryFile(dir=_local_folder(folder)) as file:
        valid = _validated(config, sources, file, skipped, decode)
        counts = np.bincount(valid["train"].labels, minlength=len(class_names))
        if 0 in counts:
            empty = class_names[int(np.argmin(counts))]
            raise UserError(
                f"The class {empty!r} of {train.where} has no readable image; repair its "
                "files or remove it."
            )
        labels = {name: found.labels for name, found in valid.items()}
        draw = train.few_shot or few_shot
        choice = choose(config, labels, class_names, draw, held_out_first)
        dropped = _leave_duplicates(config, choice, valid, class_names)
        if len(choice.chosen["test"][1]) == 0:
            raise UserError(
                f"{config.train} has too few images to hold out a test set; add images or give "
                "--data.test."
            )
        if "val" in choice.chosen and len(choice.chosen["val"][1]) == 0:
            del choice.chosen["val"]
        written = {}
        for name, (source, indices) in choice.chosen.items():
            examples = valid[source].examples(indices)
            written[name] = RealSet.write(
                f"{folder}/{name}.arrow", examples, class_names, superclass
            )
    return {
        "settings": dataclasses.asdict(config),
        "stamps": {name: raw.stamp for name, raw in sources.raws.items()},
        "held_out_first": held_out_first,
        "class_names": class_names,
        "superclass": superclass,
        "sizes": {name: len(images) for name, images in written.items()},
        "fingerprints": {name: images.fingerprint for name, images in written.items()},
        "skipped": [{"image_id": image_id, "reason": reason} for image_id, reason in skipped],
        "account": _account(config, sources, valid, choice, skipped, dropped).to_json(),
    }


def _validated(
    config: DataConfig, sources: Sources, file: BinaryIO, skipped: Skipped, decode: Decode
) -> dict[str, Valid]:
    """The readable images of each split, with the labels of the training classes."""
    class_names = sources.raws["train"].class_names
    for names in alike(class_names):
        sources.notes.append(
            f"{some(names)} are {len(names)} classes, though their names differ in case, spaces or "
            "a leading number alone"
        )
    return {
        name: Valid(raw, _labels(config, raw, class_names, sources), config, file, skipped, decode)
        for name, raw in sources.raws.items()
    }


def _labels(
    config: DataConfig, raw: Raw, class_names: list[str], sources: Sources
) -> list[int | None]:
    """The training label of each class of a split, matched by name."""
    labels = labels_of(raw.class_names, class_names)
    pairs = list(zip(raw.class_names, labels, strict=True))
    unknown = [name for name, label in pairs if label is None]
    if unknown and config.unknown_classes == "error":
        raise UserError(
            f"{raw.where} has {'the class' if len(unknown) == 1 else f'{len(unknown)} classes,'} "
            f"{some(unknown, shown=10)}, which the training images lack; name them as there, or "
            "leave their images out with --data.unknown_classes leave_out."
        )
    for name, label in pairs:
        if label is not None and class_names[label] != name:
            sources.notes.append(f"{name!r} of {raw.where} is taken for {class_names[label]!r}")
    return labels


def _leave_duplicates(
    config: DataConfig, choice: Choice, valid: dict[str, Valid], class_names: list[str]
) -> dict[str, Left]:
    """Report held-out images that are training images too, and drop them where that is wanted: what
    was dropped, by reason.
    """
    training = np.union1d(choice.chosen["train"][1], choice.not_drawn)
    known = valid["train"].seen(training, class_names)
    twice = contradictions(known)
    if twice:
        choice.notes.append(said(twice, "training images that are in another class too"))
    dropped = {}
    for name, what in (("test", "test images"), ("val", "validation images")):
        if name not in choice.chosen:
            continue
        source, indices = choice.chosen[name]
        seen = valid[source].seen(indices, class_names)
        found = twins(seen, known)
        if not found:
            continue
        choice.notes.append(said(found, f"{what} that are training images too"))
        if config.drop_duplicates:
            left_out = {twin.image_id for twin in found}
            kept = np.array([each.image_id not in left_out for each in seen], dtype=bool)
            choice.chosen[name] = (source, indices[kept])
            dropped[f"{what} that are training images too"] = left(left_out)
        else:
            choice.notes[-1] += "; --data.drop_duplicates True leaves them out"
    return dropped


def _account(
    config: DataConfig,
    sources: Sources,
    valid: dict[str, Valid],
    choice: Choice,
    skipped: Skipped,
    dropped: dict[str, Left],
) -> Account:
    ignored = {**sources.ignored, **dropped}
    for name, found in valid.items():
        if found.unknown:
            ignored[f"{name} images of classes that training lacks"] = left(found.unknown)
    if len(choice.not_drawn):
        option = "shots" if config.shots is not None else "imbalance_factor"
        ignored[f"not drawn for --data.{option}"] = left(valid["train"].ids(choice.not_drawn))
    unreadable = by_kind(skipped)
    return Account(
        splits={name: _taken(config, sources, name) for name in _SETS if name in choice.chosen},
        found=sum(found.found for found in valid.values())
        + sum(each.count for each in sources.ignored.values()),
        used=sum(len(np.unique(indices)) for _, indices in choice.chosen.values()),
        ignored=dict(sorted(ignored.items(), key=_frequent)),
        unreadable=unreadable,
        notes=[*sources.notes, *_first_pages(valid), *choice.notes],
    )


def _first_pages(valid: dict[str, Valid]) -> list[str]:
    """A sentence about the images of which a part is used."""
    paged = [image_id for found in valid.values() for image_id in found.paged]
    if not paged:
        return []
    return [
        "images with several pages or frames, of which the first is used: "
        f"{len(paged)}, such as {some(paged)}"
    ]


def _frequent(item: tuple[str, Left]) -> tuple[int, str]:
    return -item[1].count, item[0]


def _taken(config: DataConfig, sources: Sources, name: str) -> str:
    if name in sources.taken:
        return sources.taken[name]
    fraction = config.test_fraction if name == "test" else config.val_fraction
    return f"{fraction:.0%} of each class of {sources.taken['train']}"


def _local_folder(folder: str) -> str | None:
    """Where to put large temporary files: beside a local result, else in the system's place."""
    local = local_path(folder)
    if local is not None:
        os.makedirs(local, exist_ok=True)
    return local
