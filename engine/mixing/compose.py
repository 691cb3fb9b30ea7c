"""Several sets of mixes, our own and other people's, put together as one mix store. Needs no
cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from diffmix import images
from diffmix.config import Config, images_of
from diffmix.config_check import check
from diffmix.datasets import class_names as names
from diffmix.datasets.prepare import prepare
from diffmix.errors import UserError
from diffmix.formats import FORMATS, detect
from diffmix.formats.named_mix import NamedMix, batches
from diffmix.storage import Folder
from engine.lease import held
from engine.mixing.store import SCHEMA, MixStore

PART_MIXES = 64
"""Mixes in a part."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One of the sets that are put together."""

    uri: str
    format: str
    """`store`, or a name of `FORMATS`."""
    read: Callable[[], Iterator[NamedMix]]
    """Reads the mixes from the first one on, at each call."""
    size: int
    classes: list[str]
    """In label order for a store; the names that occur, sorted, for other layouts."""


def compose(config: Config) -> dict:
    """Put `config.compose.stores` together as `config.out`/mixes. Gives what its `plan.json` then
    says.

    Mix ids are given anew: 0 to n-1, by input and in each input's own order. All else stays, the
    gate's decisions included. The same call resumes where an earlier one was stopped. Raises
    `UserError` for an input that is empty, damaged, in no known layout or of other classes, and for
    an `out` that holds other mixes.
    """
    check(config)
    if not config.out or not config.compose.stores:
        missing = "compose.stores" if config.out else "out"
        raise UserError(f"--{missing} is not set: diffmix compose --compose.stores A B --out NEW.")
    sources = [_open(uri) for uri in config.compose.stores]
    class_names = _class_names(config, sources)
    labels = [names.match(source.classes, class_names, source.uri) for source in sources]
    chosen = [_choose(config, number, source) for number, source in enumerate(sources)]
    identity = _identity(config, sources, chosen, class_names)
    store = MixStore((Folder(config.out) / "mixes").uri)
    store.check(identity)
    with held(Folder(config.out).create()):
        store.bind(identity)
        missing_parts = set(range(num_parts(identity["planned"]))) - store.stored_chunks()
        mixes = (
            (mix, source, label_of)
            for source, label_of, taken in zip(sources, labels, chosen, strict=True)
            for mix in itertools.compress(source.read(), taken)
        )
        max_pixels = itertools.repeat(config.data.max_pixels)
        with ThreadPoolExecutor() as threads:
            for part, found in enumerate(batches(mixes, PART_MIXES)):
                if part in missing_parts:
                    mix_ids = itertools.count(part * PART_MIXES)
                    rows = list(threads.map(_row, mix_ids, found, max_pixels))
                    store.write(part, pa.Table.from_pylist(rows, schema=SCHEMA))
    return identity


def num_parts(mixes: int) -> int:
    """Parts of a composed store of so many mixes."""
    return -(-mixes // PART_MIXES)


def _open(uri: str) -> Source:
    """A run folder, a mix store or a folder in another layout, read through once to count its mixes
    and see that they are whole.
    """
    folder = Folder(uri)
    stores = [MixStore(candidate.uri) for candidate in (folder, folder / "mixes")]
    store = next((store for store in stores if store.identity), None)
    format = "store" if store else detect(folder)
    if format is None:
        raise UserError(
            f"{folder.uri} holds no mixes: it is no run folder, mix store, imagefolder, WebDataset "
            "or folder of the reference."
        )
    read = store.named if store else lambda: FORMATS[format].read(folder)
    size, occurring = 0, set()
    for mix in read():
        size += 1
        occurring |= {mix.source, mix.target}
    if not size:
        raise UserError(f"{folder.uri} holds no mixes; leave it out of --compose.stores.")
    return Source(
        uri=folder.uri,
        format=format,
        read=read,
        size=size,
        classes=store.class_names if store else sorted(occurring),
    )


def _identity(
    config: Config, sources: list[Source], chosen: list[np.ndarray], class_names: list[str]
) -> dict:
    """What the new store's `plan.json` says."""
    composed = []
    for source, taken in zip(sources, chosen, strict=True):
        composed.append(
            {
                "from": source.uri,
                "format": source.format,
                "mixes": source.size,
                "taken": int(taken.sum()),
            }
        )
    return {
        "composed": composed,
        "seed": config.run.seed,
        "class_names": class_names,
        "planned": int(sum(taken.sum() for taken in chosen)),
    }


def _class_names(config: Config, sources: list[Source]) -> list[str]:
    """The classes in the order of the new store's labels."""
    if config.data.train:
        return prepare(images_of(config), Folder(config.out).create().uri).train.class_names
    for source in sources:
        if source.format == "store":
            return source.classes
    raise UserError(
        "--data.train is not set, and none of --compose.stores says which classes there are; set "
        "it to the images to train on."
    )


def _choose(config: Config, number: int, source: Source) -> np.ndarray:
    """bool [size]: which mixes are taken of an input, the `number`-th from 0."""
    counts, shares = config.compose.count, config.compose.share
    if counts:
        count = counts[number % len(counts)]
        if count > source.size:
            raise UserError(
                f"--compose.count asks for {count} mixes of {source.uri}, which has {source.size}."
            )
    else:
        share = shares[number % len(shares)] if shares else 1.0
        count = max(1, round(share * source.size))
    philox = np.random.Philox(key=config.run.seed, counter=[0, 0, 3, number])
    taken = np.zeros(source.size, dtype=bool)
    taken[np.random.Generator(philox).permutation(source.size)[:count]] = True
    return taken


def _row(mix_id: int, found: tuple[NamedMix, Source, dict[str, int]], max_pixels: int) -> dict:
    """A row of the store."""
    mix, source, label_of = found
    image = mix.load()
    if source.format != "store":
        try:
            images.decode(image, max_pixels)
        except images.BadImage as error:
            raise UserError(
                f"The image of mix {mix.mix_id} in {source.uri} cannot be used ({error}); remove "
                "it there."
            ) from error
    row = vars(mix) | {
        "mix_id": mix_id,
        "source_label": label_of[mix.source],
        "target_label": label_of[mix.target],
        "image": image,
    }
    return {name: row[name] for name in SCHEMA.names}
