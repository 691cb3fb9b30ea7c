"""A worker's first words, without Ray."""

from types import SimpleNamespace

import pytest

from diffmix.errors import UserError
from engine.nodes.shared_folder import Marker
from engine.worker_group import start
from engine.worker_group.start import begin


@pytest.fixture
def said(monkeypatch):
    """What this process says as the worker of rank 3 on the node `a`."""
    node = SimpleNamespace(get_node_id=lambda: "a")
    rank = SimpleNamespace(get_world_rank=lambda: 3)
    monkeypatch.setattr(start.ray, "get_runtime_context", lambda: node)
    monkeypatch.setattr(start.ray.train, "get_context", lambda: rank)
    return []


def job(said: list, marker: Marker | None = None) -> SimpleNamespace:
    send = lambda kind, **values: said.append({"event": kind, **values})  # noqa: E731
    return SimpleNamespace(reporter=SimpleNamespace(send=send), marker=marker)


def test_a_worker_says_that_it_is_there(said):
    begin("train", job(said))
    assert said == [{"event": "worker_ready", "name": "train", "rank": 3, "node": "a"}]


def test_a_folder_that_is_another_one_here_is_a_users_mistake(tmp_path, said):
    with pytest.raises(UserError, match="not the same folder"):
        begin("train", job(said, Marker(folder=str(tmp_path), word="a")))
    assert said
