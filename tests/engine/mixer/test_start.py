"""Tries of a mixer's start, and the nodes that no further mixer is started on."""

from types import SimpleNamespace

import pytest

from diffmix.errors import UserError
from engine.mixer import start as start_module
from engine.mixer.start import FAILED_STARTS, TRIES, GoodNodes, start

LABEL = {"ray-subcluster": "gen"}


class Heard:
    """A `Reporter` that keeps what it is told."""

    def __init__(self, **failed_starts: int):
        self.events: list[dict] = []
        self._failed = failed_starts

    def send(self, kind, **values):
        self.events.append({"event": kind, **values})

    def failed_starts(self):
        return self._failed


@pytest.fixture(autouse=True)
def described(monkeypatch):
    """Two mixing nodes and one for training, and this process on the node `bad`."""
    nodes = []
    for name, label in (("bad", "gen"), ("good", "gen"), ("other", "train")):
        labels = {"ray-subcluster": label}
        nodes.append({"NodeID": name, "Alive": True, "Labels": labels, "Resources": {"GPU": 1.0}})
    context = SimpleNamespace(get_node_id=lambda: "bad")
    monkeypatch.setattr(start_module.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(start_module.ray, "get_runtime_context", lambda: context)
    return nodes


def failing(*errors: Exception):
    left = list(errors)

    def build():
        if left:
            raise left.pop(0)
        return "mixer"

    return build


def test_a_start_that_fails_for_a_while_is_tried_again():
    heard, waits = Heard(), []
    build = failing(OSError("429 Too Many Requests"), RuntimeError("busy"))
    assert start(build, heard, waits.append) == "mixer"
    assert [event["reason"] for event in heard.events] == ["429 Too Many Requests", "busy"]
    assert {event["node"] for event in heard.events} == {"bad"}
    assert len(waits) == 2
    assert max(waits) <= 30


def test_the_last_tries_error_is_raised():
    heard = Heard()
    errors = [OSError(f"disk full {i}") for i in range(9)]
    with pytest.raises(OSError, match=f"disk full {TRIES - 1}"):
        start(failing(*errors), heard, lambda seconds: None)
    assert len(heard.events) == TRIES


def test_what_the_user_has_to_mend_is_not_tried_again():
    heard = Heard()
    with pytest.raises(UserError, match="no base model"):
        start(failing(UserError("There is no base model.")), heard)
    assert not heard.events


def test_nodes_where_mixers_cannot_start_are_left_out_while_there_are_others(described):
    enough = TRIES * FAILED_STARTS
    assert GoodNodes(Heard(bad=enough - 1), LABEL)() == {}
    assert GoodNodes(Heard(bad=enough), LABEL)() == {
        "label_selector": {**LABEL, "ray.io/node-id": "!in(bad)"}
    }
    assert GoodNodes(Heard(bad=enough, good=enough), LABEL)() == {}
    described[1]["Alive"] = False
    assert GoodNodes(Heard(bad=enough), LABEL)() == {}
