"""Decoding a large data set on all nodes of a cluster, and not on the driver's alone."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import ray

from diffmix.config import Config
from diffmix.datasets.decode import Checked, checked, in_threads
from diffmix.datasets.raw import Found
from diffmix.files.remote_tree import origin, read_file
from engine.placement import cluster

FEW = 5_000
"""A smaller data set is decoded by the driver: it is done before a cluster has started workers."""
_BATCH, _BATCH_BYTES = 64, 16 * 2**20
_TASKS_PER_CPU = 2
_LEAST_TASKS, _MOST_TASKS = 16, 128  # the driver writes the images to one file: that is the limit
_THREADS = 8


Place = bytes | str | None
"""An image's bytes, or its path or URI."""


class DecodeOnCluster:
    """A `diffmix.datasets.decode.Decode`. Where the configuration names a cluster and there are
    many images, tasks on its nodes decode them.

    Tasks read the images of a bucket themselves. Other files are only known to be on the driver's
    node, which reads them and hands on their bytes.
    """

    def __init__(self, config: Config):
        self._config = config

    def __call__(
        self, examples: Iterator[Found], max_pixels: int
    ) -> Iterator[tuple[Found, Checked | str]]:
        first = list(islice(examples, FEW))
        everything = chain(first, examples)
        if len(first) < FEW or not _names_a_cluster(self._config):
            return in_threads(everything, max_pixels)
        return self._on_cluster(everything, max_pixels)

    def _on_cluster(
        self, examples: Iterator[Found], max_pixels: int
    ) -> Iterator[tuple[Found, Checked | str]]:
        cluster.connect(self._config)
        task = ray.remote(_decode).options(num_cpus=1, name="decode")
        batches = _batches(examples)
        running: deque[tuple[list[Found], list[Place], Any]] = deque()
        with ThreadPoolExecutor(_THREADS) as threads:
            while True:
                batch = next(batches, [])
                if batch:
                    places = list(threads.map(_place, batch))
                    running.append((batch, places, task.remote(places, max_pixels)))
                if running and (len(running) >= _most_tasks() or not batch):
                    found, given, reference = running.popleft()
                    results = zip(found, given, ray.get(reference), strict=True)
                    for image, place, result in results:
                        if isinstance(place, bytes) and not isinstance(result, str):
                            result = result._replace(data=place)
                        yield image, result
                elif not batch:
                    return


def _batches(examples: Iterator[Found]) -> Iterator[list[Found]]:
    """The images of each task: bounded by their number and their bytes."""
    batch: list[Found] = []
    size = 0
    for found in examples:
        batch.append(found)
        size += _size(found.image)
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(image: Place) -> int:
    if isinstance(image, str):
        try:
            return os.path.getsize(image)  # of a tree of a bucket's names, too
        except (OSError, ValueError):
            return 0
    return len(image or b"")


def _names_a_cluster(config: Config) -> bool:
    """Whether there is, or will be, a cluster that is not only this machine."""
    address = config.run.address or os.environ.get("RAY_ADDRESS")
    return ray.is_initialized() or address not in (None, "", "local")


def _most_tasks() -> int:
    """Tasks that may run or wait at a time. A growing cluster is looked at anew each time."""
    wanted = _TASKS_PER_CPU * int(ray.cluster_resources().get("CPU", 0))
    return min(_MOST_TASKS, max(_LEAST_TASKS, wanted))


def _place(found: Found) -> Place:
    """What a task on another node needs: a URI that it can read, or the file's bytes."""
    image = found.image
    if not isinstance(image, str):
        return image
    uri = image if "://" in image else origin(image)
    if uri is not None:
        return uri
    try:
        return read_file(image)
    except (OSError, ValueError) as error:
        return f"cannot be opened: {getattr(error, 'strerror', None) or error}"


def _decode(places: list[Place], max_pixels: int) -> list[Checked | str]:
    """Runs on any node. What is known of each image, or why it cannot be read. Bytes that were
    given are not sent back.
    """

    def check(place: Place) -> Checked | str:
        if isinstance(place, str) and "://" not in place:
            return place  # the reason why the driver could not read it
        result = checked(place, max_pixels)
        given = isinstance(place, bytes) and isinstance(result, Checked)
        return result._replace(data=b"") if given else result  # type: ignore[union-attr]

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(check, places))
