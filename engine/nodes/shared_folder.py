"""Whether all nodes see a run folder that is a path: a marker that the driver writes there."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.placement.cluster import LABEL

_FILE = ".marker"
_TIMEOUT = 60.0


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A file in the run folder with a word that no other run folder has. Picklable."""

    folder: str
    """The run folder's path."""
    word: str

    def check(self) -> None:
        """Raise `UserError` where this node sees another folder, or none, at the path."""
        try:
            seen = Path(self.folder, _FILE).read_text(encoding="utf-8")
        except OSError:
            seen = ""
        if seen != self.word:
            address = ray.util.get_node_ip_address()
            raise UserError(
                f"--out {self.folder} is not the same folder on node {address}; give a path on a "
                "disk that all nodes see, or a URI such as s3://bucket/run."
            )


def mark(out: Folder) -> Marker | None:
    """Write the marker of a run folder that is a path, and look for it on one other node of each
    kind that is there. None for a URI, which all nodes see alike.

    Nodes that come later look themselves, as their workers start. Raises `UserError`.
    """
    if not out.is_local:
        return None
    marker = Marker(folder=str(out.path), word=uuid.uuid4().hex)
    out.write(_FILE, marker.word.encode())
    own = ray.get_runtime_context().get_node_id()
    kinds: dict[str | None, str] = {}
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] != own:
            kinds.setdefault(node.get("Labels", {}).get(LABEL), node["NodeID"])
    looks = []
    for node in kinds.values():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(_look).options(num_cpus=0, scheduling_strategy=there)
        looks.append(task.remote(marker))
    ready, _ = ray.wait(looks, num_returns=len(looks), timeout=_TIMEOUT) if looks else ([], [])
    for look in ready:
        try:
            found = ray.get(look)
        except ray.exceptions.RayError:  # the node has gone
            continue
        if found is not None:
            raise UserError(found)
    return marker


def _look(marker: Marker) -> str | None:
    try:
        marker.check()
    except UserError as error:
        return str(error)
    return None
