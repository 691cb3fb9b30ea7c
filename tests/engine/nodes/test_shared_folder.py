"""A run folder that another node sees or does not see, on the shared cluster's only node."""

import pytest
import ray

from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.nodes import shared_folder
from engine.nodes.shared_folder import Marker, mark

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_folder_is_known_by_a_word_of_this_attempt(tmp_path):
    first = mark(Folder(str(tmp_path)))
    first.check()
    second = mark(Folder(str(tmp_path)))
    second.check()
    with pytest.raises(UserError, match=r"not the same folder on node [\d.]+; give a path on a"):
        first.check()


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"--out /nowhere is not the same folder"):
        Marker(folder="/nowhere", word="a").check()


def test_uris_need_no_marker(object_store):
    assert mark(Folder("s3://bucket/run").create()) is None


def test_one_node_of_each_kind_is_asked(tmp_path, monkeypatch):
    """Three nodes with another address than the driver's, which all are this machine's only one."""
    (here,) = (node["NodeID"] for node in ray.nodes())
    nodes = []
    for label in ("gen", "gen", None):
        labels = {"ray-subcluster": label} if label else {}
        nodes.append({"NodeID": here, "Alive": True, "Labels": labels})
    monkeypatch.setattr(shared_folder.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(
        shared_folder.ray.get_runtime_context().__class__, "get_node_id", lambda self: "driver"
    )
    asked = []
    write = Folder.write

    def write_elsewhere(folder, name, data):
        asked.append(name)
        write(folder, name, b"another driver's")

    mark(Folder(str(tmp_path)))
    monkeypatch.setattr(Folder, "write", write_elsewhere)
    with pytest.raises(UserError, match="not the same folder"):
        mark(Folder(str(tmp_path)))
    assert asked == [".marker"]
