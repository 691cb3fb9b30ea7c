"""Events reach every listener once and in order, whatever another listener does. The collector is a
stand-in here; test_object_store.py has the real one.
"""

import json
from types import SimpleNamespace

import pytest

from diffmix.errors import UserError
from diffmix.format_version import FORMAT_VERSION, KEY
from diffmix.storage import Folder
from engine import telemetry
from engine.telemetry import Telemetry, read_events


class Listens:
    def __init__(self, fails: bool = False):
        self.kinds, self.closed, self.fails = [], False, fails

    def on_events(self, events):
        self.kinds += [event["event"] for event in events]
        if self.fails:
            raise ConnectionError("the tracker's server is away")

    def close(self):
        self.closed = True


@pytest.fixture
def worker(monkeypatch) -> telemetry._Collector:
    """What workers send goes to this collector; Ray is not started."""
    collector = telemetry._Collector()
    drain = SimpleNamespace(remote=collector.drain)
    options = SimpleNamespace(remote=lambda: SimpleNamespace(drain=drain))
    fake = SimpleNamespace(
        get=lambda events: events,
        kill=lambda actor: None,
        remote=lambda kind: SimpleNamespace(options=lambda **_: options),
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "node"),
    )
    monkeypatch.setattr(telemetry, "ray", fake)
    return collector


def test_listeners_hear_workers_and_the_driver_once_and_in_order(tmp_path, worker):
    first, second = Listens(), Listens()
    events = Telemetry(Folder(str(tmp_path)), "name", 1.0, [first, second])
    worker.record({"event": "mix", "time": 2.0})
    events.collect()
    worker.record({"event": "train", "time": 3.0})
    events.record("split", gpus=2)
    events.collect()
    events.record("personalize", start=0.0, end=1.0)
    events.close()
    heard = ["start", "mix", "split", "train", "personalize"]
    assert first.kinds == second.kinds == heard
    assert [event["event"] for event in events.events] == heard
    assert [event["event"] for event in read_events(Folder(str(tmp_path)))] == heard
    assert first.closed
    assert second.closed


def test_a_listener_that_fails_stops_neither_the_run_nor_the_others(tmp_path, worker, caplog):
    broken, whole = Listens(fails=True), Listens()
    events = Telemetry(Folder(str(tmp_path)), "name", None, [broken, whole])
    events.collect()
    events.close()
    assert whole.kinds == ["start"]
    assert broken.closed
    assert "Listens could not take events: the tracker's server is away" in caplog.text


def test_earlier_attempts_are_read_back_and_not_told_again(tmp_path, worker):
    out = Folder(str(tmp_path))
    Telemetry(out, "first", 1.0).close()
    listener = Listens()
    again = Telemetry(out, "second", 2.0, [listener])
    again.collect()
    assert listener.kinds == ["start"]
    assert [event["command"] for event in again.events] == [1.0, 2.0]
    assert all(event[KEY] == FORMAT_VERSION for event in again.events)


def test_a_newer_attempt_is_refused_and_a_cut_off_line_left_out(tmp_path):
    out = Folder(str(tmp_path))
    assert read_events(out) == []
    out.write("metrics.jsonl", b'{"event": "start", "time": 1.0}\n{"event": "tr')
    assert [event["event"] for event in read_events(out)] == ["start"]
    newer = {"event": "start", "time": 1.0, KEY: FORMAT_VERSION + 1}
    out.write("metrics.jsonl", json.dumps(newer).encode())
    with pytest.raises(UserError, match=r"metrics\.jsonl has format version"):
        read_events(out)


def test_a_mixers_death_is_known_when_its_record_returns(monkeypatch):
    collector = telemetry._Collector()

    def remote(method):
        return SimpleNamespace(remote=method)

    actor = SimpleNamespace(
        record=remote(collector.record), lost_mixers=remote(collector.lost_mixers)
    )
    monkeypatch.setattr(telemetry.ray, "get_actor", lambda *_, **__: actor)
    monkeypatch.setattr(telemetry.ray, "get", lambda answer, timeout: answer)
    reporter = telemetry.Reporter("name")
    assert reporter.lost_mixers() == 0
    reporter.record("mixer_lost", node="a")
    reporter.record("note", text="something else")
    assert reporter.lost_mixers() == 1
    assert [event["event"] for event in collector.events] == ["mixer_lost", "note"]


def test_a_lost_collector_knows_of_no_death(monkeypatch):
    def gone(*_, **__):
        raise ValueError("no such actor")

    monkeypatch.setattr(telemetry.ray, "get_actor", gone)
    reporter = telemetry.Reporter("name")
    reporter.record("mixer_lost", node="a")
    assert reporter.lost_mixers() == 0
