"""Who hears events. What `Telemetry` does with listeners is in test_telemetry.py."""

import json

import pytest

from diffmix.config import Config, replace
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine import listeners
from engine.display import JsonView, LinesView
from engine.listeners import (
    METRICS_FILE,
    MetricsFile,
    as_listeners,
    check_listeners,
    make_listeners,
    metrics_files,
)
from engine.telemetry import read_events
from engine.trackers.tensorboard import TensorBoard


def test_listeners_are_made_by_name(tmp_path, monkeypatch):
    made = []
    monkeypatch.setitem(listeners.LISTENERS, "mine", lambda _, out: made.append(out) or "mine")
    out = Folder(str(tmp_path))
    config = Config()
    assert make_listeners(replace(config, **{"run.listeners": ("mine",)}), out) == ["mine"]
    assert made == [out]
    assert make_listeners(replace(config, **{"run.listeners": ()}), out) == []
    assert [type(one) for one in make_listeners(config, out)] == [LinesView, TensorBoard]


def test_the_display_is_the_one_that_the_options_name(tmp_path):
    config = replace(Config(), **{"run.display": "json", "run.listeners": ("progress",)})
    assert [type(one) for one in make_listeners(config, Folder(str(tmp_path)))] == [JsonView]


def test_an_unknown_name_is_one_sentence():
    with pytest.raises(UserError, match=r"--run\.listeners is nobody, but it must be one of mlfl"):
        check_listeners(("progress", "nobody"))


def test_a_run_with_an_unknown_listener_ends_before_anything_is_read(tmp_path):
    from engine.placement.preflight import check_inputs

    config = replace(Config(out=str(tmp_path / "out")), **{"run.listeners": ("nobody",)})
    with pytest.raises(UserError, match=r"run\.listeners is nobody"):
        check_inputs(config)
    assert not (tmp_path / "out").exists()


def lines(out: Folder) -> list[dict]:
    return [json.loads(line) for line in out.read(METRICS_FILE).decode().splitlines()]


def test_events_are_on_a_disk_at_once(tmp_path):
    out = Folder(str(tmp_path))
    metrics = MetricsFile(out)
    metrics.on_events([{"event": "start"}, {"event": "mix"}])
    assert [event["event"] for event in lines(out)] == ["start", "mix"]
    metrics.on_events([])
    metrics.on_events([{"event": "train"}])
    assert [event["event"] for event in lines(out)] == ["start", "mix", "train"]


def test_a_line_that_a_killed_writer_cut_off_is_ended(tmp_path):
    out = Folder(str(tmp_path))
    out.write(METRICS_FILE, b'{"event": "start"}\n{"eve')
    MetricsFile(out).on_events([{"event": "train"}])
    assert out.read(METRICS_FILE) == b'{"event": "start"}\n{"eve\n{"event": "train"}\n'


def test_what_could_not_be_written_is_written_by_the_next_call(tmp_path, monkeypatch):
    out = Folder(str(tmp_path))
    metrics = MetricsFile(out)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "append", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            metrics.on_events([{"event": "start"}])
    metrics.on_events([{"event": "mix"}])
    assert [event["event"] for event in lines(out)] == ["start", "mix"]


def test_a_function_is_called_with_each_event(tmp_path):
    heard = []
    file = MetricsFile(Folder(str(tmp_path)))
    same, callback = as_listeners([file, heard.append])
    assert same is file
    callback.on_events([{"event": "start"}, {"event": "mix"}])
    callback.on_events([])
    callback.close()
    assert heard == [{"event": "start"}, {"event": "mix"}]


def test_an_object_store_gets_events_in_parts(object_store, monkeypatch):
    """No part is written again once the next has begun."""
    written = []
    write = Folder.write
    monkeypatch.setattr(
        Folder, "write", lambda self, name, data: (written.append(name), write(self, name, data))
    )
    monkeypatch.setattr(listeners, "_REMOTE_SECONDS", 0.0)
    line = len(json.dumps({"event": "mix", "chunk": 0}) + "\n")
    monkeypatch.setattr(listeners, "_PART_BYTES", 2 * line)
    out = Folder("s3://bucket/run")
    metrics = MetricsFile(out)
    for chunk in range(5):
        metrics.on_events([{"event": "mix", "chunk": chunk}])
    metrics.close()
    again = MetricsFile(out)
    again.on_events([{"event": "start"}])
    second, third, fourth = (f"metrics-0000{number}.jsonl" for number in (1, 2, 3))
    assert written == [METRICS_FILE] * 2 + [second] * 2 + [third, fourth]
    assert metrics_files(out) == [METRICS_FILE, second, third, fourth]
    events = read_events(out)
    assert [event.get("chunk") for event in events] == [0, 1, 2, 3, 4, None]


def test_ten_parts_are_read_in_order(object_store):
    out = Folder("s3://bucket/run")
    for number in range(12):
        name = f"metrics-{number:05d}.jsonl" if number else METRICS_FILE
        out.write(name, json.dumps({"event": "mix", "chunk": number}).encode() + b"\n")
    assert [event["chunk"] for event in read_events(out)] == list(range(12))
