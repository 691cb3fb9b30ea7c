"""A cloud on one machine: each node that Ray's autoscaler asks for is a raylet with logical GPUs.

Ray loads it by its name in the cluster's file. A group has no capacity while the file that
`NO_CAPACITY` names lists it, as a spot market may have none.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

NO_CAPACITY = "DIFFMIX_NO_CAPACITY"
"""Environment variable: a file with one group's name a line."""
LOG = "DIFFMIX_PROVIDER_LOG"
"""Environment variable: a file that gets a line for each thing that was asked of the cloud."""


class FakeNodes(FakeMultiNodeProvider):
    """Ray's provider for its own tests, with groups that may lack capacity, and a log."""

    def create_node_with_resources_and_labels(self, node_config, tags, count, resources, labels):  # type: ignore[no-untyped-def]
        group = tags["ray-user-node-type"]
        if group in _without_capacity():
            _note("refused", group, count)
            raise RuntimeError(f"no capacity for {group}")
        before = set(self._nodes)
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
        _note("created", group, *sorted(set(self._nodes) - before))

    def terminate_node(self, node_id):  # type: ignore[no-untyped-def]
        _note("ended", node_id)
        super().terminate_node(node_id)


def _without_capacity() -> list[str]:
    file = Path(os.environ.get(NO_CAPACITY, ""))
    return file.read_text().split() if file.is_file() else []


def _note(*words: object) -> None:
    if LOG in os.environ:
        with open(os.environ[LOG], "a", encoding="utf-8") as log:
            print(f"{time.time():.2f}", *words, file=log)
