"""From the user's data set to validated, split images in the run folder."""

import dataclasses
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from diffmix.buckets.remote_tree import here, said_of_its_origin
from diffmix.config import DataConfig
from diffmix.datasets import readers, splits
from diffmix.datasets.decode import Decode, in_threads
from diffmix.datasets.raw import Found, Raw
from diffmix.datasets.real import Example, RealSet
from diffmix.errors import UserError, reason
from diffmix.format_version import with_version, without_version
from diffmix.storage import Folder, local_path

_log = logging.getLogger(__name__)
_NAMED = 3
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


def prepare(config: DataConfig, out: str, decode: Decode = in_threads) -> Prepared:
    """Read, validate and split the images that `config` names, into
    `<out>/data/{train,val,test}.arrow` and `data.json`.

    - Every image is decoded once. Unreadable images are logged, skipped and counted.
    - The data set's own test and validation images are used if it has them; validation images alone
      become the test set. Otherwise stratified parts of the training images are held out.
    - `imbalance_factor` or `shots` then reduce the training images. An image that few-shot sampling
      draws again gets the id `<id>#1`, then `<id>#2`.
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
    raws = _find(config)
    stamps = {name: raw.stamp for name, raw in raws.items()}
    if saved is not None and saved["stamps"] == stamps:
        return _open(folder, saved)
    try:
        if saved is None:
            record = _build(config, raws, folder, decode)
        else:
            with tempfile.TemporaryDirectory(dir=_local_folder(folder)) as scratch:
                record = _build(config, raws, scratch, decode)
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
    return Prepared(sets["train"], sets.get("val"), sets["test"])


def _check_settings(config: DataConfig, saved: dict, out: str) -> None:
    for name, value in dataclasses.asdict(config).items():
        if name not in _FREE_SETTINGS and saved.get(name) != value:
            raise UserError(
                f"{out} was made with --data.{name} {saved.get(name)}, not {value}; go back to "
                "that or use another --out."
            )


def _find(config: DataConfig) -> dict[str, Raw]:
    """The splits that exist: `train`, and `val` and `test` if the data set brings them."""
    if not config.train:
        raise UserError(
            "--data.train is missing; give it a folder with one sub-folder per class, a Parquet "
            "file, a hub id, or nano."
        )
    own = readers.find(here(config.train), config)
    raws = {"train": own["train"]()}
    if config.test is not None:
        other = readers.find(here(config.test), config)
        raws["test"] = (other.get("test") or other.get("val") or other["train"])()
    elif "test" in own:
        raws["test"] = own["test"]()
    elif "val" in own:
        raws["test"] = own.pop("val")()
    elif config.test_fraction == 0:
        raise UserError(
            f"{config.train} has no test images and --data.test_fraction is 0; raise it or give "
            "--data.test."
        )
    if "val" in own:
        raws["val"] = own["val"]()
    class_names = raws["train"].class_names
    if len(class_names) < 2:
        raise UserError(
            f"{raws['train'].where} has only the class {class_names[0]!r}; at least two classes "
            "are needed."
            if class_names
            else f"{raws['train'].where} has no images."
        )
    for raw in raws.values():
        unknown = [name for name in raw.class_names if name not in set(class_names)]
        if unknown:
            raise UserError(
                f"{raw.where} has the class {unknown[0]!r}, which the training images lack; remove "
                "it or name it as there."
            )
    return raws


def _build(config: DataConfig, raws: dict[str, Raw], folder: str, decode: Decode) -> dict:
    """Validate, split and write; the content of `data.json`."""
    class_names = raws["train"].class_names
    superclass = config.superclass or raws["train"].superclass or "object"
    skipped: list[tuple[str, str]] = []
    with tempfile.TemporaryFile(dir=_local_folder(folder)) as file:
        valid = {
            name: _Valid(raw, class_names, config, file, skipped, decode)
            for name, raw in raws.items()
        }
        counts = np.bincount(valid["train"].labels, minlength=len(class_names))
        if 0 in counts:
            empty = class_names[int(np.argmin(counts))]
            raise UserError(
                f"The class {empty!r} of {raws['train'].where} has no readable image; repair its "
                "files or remove it."
            )
        written = {
            name: RealSet.write(
                f"{folder}/{name}.arrow", valid[source].examples(indices), class_names, superclass
            )
            for name, (source, indices) in _choose(
                config, {name: found.labels for name, found in valid.items()}
            ).items()
        }
    return {
        "settings": dataclasses.asdict(config),
        "stamps": {name: raw.stamp for name, raw in raws.items()},
        "class_names": class_names,
        "superclass": superclass,
        "sizes": {name: len(images) for name, images in written.items()},
        "fingerprints": {name: images.fingerprint for name, images in written.items()},
        "skipped": [{"image_id": image_id, "reason": reason} for image_id, reason in skipped],
    }


def _choose(config: DataConfig, labels: dict[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """For each set that is written: the split that it comes from, and its indices there."""
    train = np.arange(len(labels["train"]))
    chosen = {name: (name, np.arange(len(labels[name]))) for name in labels}
    for name, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if name not in labels:
            kept, held_out = splits.stratified(labels["train"][train], fraction, config.seed)
            chosen[name] = ("train", train[held_out])
            train = train[kept]
    if config.imbalance_factor is not None:
        train = train[
            splits.long_tail(labels["train"][train], config.imbalance_factor, config.seed)
        ]
    if config.shots is not None:
        train = train[splits.few_shot(labels["train"][train], config.shots, config.seed)]
    chosen["train"] = ("train", train)
    if len(chosen["test"][1]) == 0:
        raise UserError(
            f"{config.train} has too few images to hold out a test set; add images or give "
            "--data.test."
        )
    if len(chosen["val"][1]) == 0:
        del chosen["val"]
    return chosen


class _Valid:
    """The readable images of one split. Their bytes are kept in an unnamed file, which the system
    deletes with the process.
    """

    def __init__(
        self,
        raw: Raw,
        class_names: list[str],
        config: DataConfig,
        file: BinaryIO,
        skipped: list[tuple[str, str]],
        decode: Decode,
    ):
        self._file = file
        self._rows: list[tuple[Found, int, int]] = []
        """Each image without its bytes, and where these begin and end in the file."""
        labels = [class_names.index(name) for name in raw.class_names]
        seen: set[str] = set()
        for found, result in decode(raw.examples(), config.max_pixels):
            if found.image_id in seen:
                raise UserError(
                    f"The image id {found.image_id!r} occurs twice in {raw.where}; ids must be "
                    "unique."
                )
            seen.add(found.image_id)
            if isinstance(result, str):
                _skip(found.image_id, result, config, skipped)
                continue
            start = file.tell()
            file.write(result)
            self._rows.append(
                (found._replace(image=None, label=labels[found.label]), start, file.tell())
            )
        file.flush()
        if not self._rows:
            raise UserError(f"{raw.where} has no readable image.")
        self.labels = np.array([found.label for found, _, _ in self._rows], dtype=np.int32)

    def examples(self, indices: np.ndarray) -> Iterator[Example]:
        times: Counter[int] = Counter()
        for index in indices.tolist():
            found, start, stop = self._rows[index]
            image_id = f"{found.image_id}#{times[index]}" if times[index] else found.image_id
            times[index] += 1
            yield Example(
                image_id,
                os.pread(self._file.fileno(), stop - start, start),
                found.label,
                found.group,
            )


def _skip(image_id: str, reason: str, config: DataConfig, skipped: list[tuple[str, str]]) -> None:
    skipped.append((image_id, reason))
    _log.warning("skipped %s: %s", image_id, reason)
    if len(skipped) > config.max_bad_images:
        last = ", ".join(f"{name!r} ({why})" for name, why in skipped[-_NAMED:])
        raise UserError(
            f"More than {config.max_bad_images} images cannot be read, the last of them {last}; "
            "repair or remove them, or allow more with --data.max_bad_images."
        )


def _local_folder(folder: str) -> str | None:
    """Where to put large temporary files: beside a local result, else in the system's place."""
    local = local_path(folder)
    if local is not None:
        os.makedirs(local, exist_ok=True)
    return local
