"""A worker's first and last words, without Ray. tests/e2e/test_mixer_errors.py has real workers."""

from types import SimpleNamespace

import pytest

from diffmix.errors import UserError
from engine.nodes.shared_folder import Marker
from engine.training import start
from engine.training.start import run_worker


class Collector:
    """A `Reporter` whose collector may hold an earlier worker's sentence."""

    def __init__(self, sentence: str | None = None):
        self.sentence, self.events = sentence, []

    def send(self, kind, **values):
        self.events.append({"event": kind, **values})

    def refuse(self, sentence):
        self.sentence = sentence

    def refusal(self):
        return self.sentence


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """This process is the worker of rank 3 on the node `a`."""
    node = SimpleNamespace(get_node_id=lambda: "a")
    rank = SimpleNamespace(get_world_rank=lambda: 3)
    monkeypatch.setattr(start.ray, "get_runtime_context", lambda: node)
    monkeypatch.setattr(start.ray.train, "get_context", lambda: rank)


def job(collector: Collector, marker: Marker | None = None) -> SimpleNamespace:
    return SimpleNamespace(reporter=collector, marker=marker)


def test_a_worker_says_that_it_is_there_and_works():
    collector, done = Collector(), []
    run_worker("train", job(collector), lambda: done.append(1))
    assert collector.events == [{"event": "worker_ready", "name": "train", "rank": 3, "node": "a"}]
    assert done == [1]


def test_a_users_mistake_is_handed_over_and_not_raised():
    collector = Collector()

    def work():
        raise UserError("The folder is empty.\nand lines of Ray's")

    run_worker("train", job(collector), work)
    assert collector.sentence == "The folder is empty."


def test_a_folder_that_is_another_one_here_is_a_users_mistake(tmp_path):
    collector, done = Collector(), []
    marker = Marker(folder=str(tmp_path), word="a")
    run_worker("train", job(collector, marker), lambda: done.append(1))
    assert "not the same folder" in collector.sentence
    assert not done


def test_nothing_is_done_after_another_workers_refusal():
    done = []
    run_worker("train", job(Collector("The folder is empty.")), lambda: done.append(1))
    assert not done


def test_other_errors_are_rays_to_handle():
    def work():
        raise ConnectionError("reset")

    with pytest.raises(ConnectionError):
        run_worker("train", job(Collector()), work)
