"""Decoding a large data set on all nodes of a cluster, and not on the driver's alone."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import ray

from diffmix.buckets.remote_tree import origin, read_file
from diffmix.config import Config
from diffmix.datasets.decode import checked, in_threads
from diffmix.datasets.raw import Found
from engine.placement import cluster

FEW = 5_000
"""A smaller data set is decoded by the driver: it is done before a cluster has started workers."""
_BATCH = 64
_TASKS_PER_CPU = 2
_LEAST_TASKS = 16
_THREADS = 8


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
    ) -> Iterator[tuple[Found, bytes | str]]:
        first = list(islice(examples, FEW))
        everything = chain(first, examples)
        if len(first) < FEW or not _names_a_cluster(self._config):
            return in_threads(everything, max_pixels)
        return self._on_cluster(everything, max_pixels)

    def _on_cluster(
        self, examples: Iterator[Found], max_pixels: int
    ) -> Iterator[tuple[Found, bytes | str]]:
        cluster.connect(self._config)
        task = ray.remote(_decode).options(num_cpus=1, name="decode")
        running: deque[tuple[list[Found], Any]] = deque()
        with ThreadPoolExecutor(_THREADS) as threads:
            while True:
                batch = list(islice(examples, _BATCH))
                if batch:
                    places = list(threads.map(_place, batch))
                    running.append((batch, task.remote(places, max_pixels)))
                if running and (len(running) >= _most_tasks() or not batch):
                    found, reference = running.popleft()
                    yield from zip(found, ray.get(reference), strict=True)
                elif not batch:
                    return


def _names_a_cluster(config: Config) -> bool:
    """Whether there is, or will be, a cluster that is not only this machine."""
    address = config.run.address or os.environ.get("RAY_ADDRESS")
    return ray.is_initialized() or address not in (None, "", "local")


def _most_tasks() -> int:
    """Tasks that may run or wait at a time. A growing cluster is looked at anew each time."""
    return max(_LEAST_TASKS, _TASKS_PER_CPU * int(ray.cluster_resources().get("CPU", 0)))


def _place(found: Found) -> bytes | str | None:
    """What a task on another node needs: a URI that it can read, or the file's bytes."""
    image = found.image
    if not isinstance(image, str):
        return image
    uri = image if "://" in image else origin(image)
    if uri is not None:
        return uri
    try:
        return read_file(image)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"


def _decode(places: list[bytes | str | None], max_pixels: int) -> list[bytes | str]:
    """Runs on any node."""

    def check(place: bytes | str | None) -> bytes | str:
        if isinstance(place, str) and "://" not in place:
            return place  # the reason why the driver could not read it
        return checked(place, max_pixels)

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(check, places))
