"""`diffmix watch` on a file that somebody else writes. The pauses between two looks are the test's
own, so that it says what happens in between.
"""

import json
import os

import pytest

from diffmix.errors import UserError
from diffmix.storage import Folder
from engine import listeners
from engine.display.watch import Follower, watch
from engine.telemetry import read_events


class Kinds:
    """A view that keeps the kinds of what it hears."""

    def __init__(self):
        self.kinds, self.closed = [], False

    def on_events(self, events):
        self.kinds += [event["event"] for event in events]

    def close(self):
        self.closed = True


def lines(*events: dict) -> bytes:
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def test_events_are_shown_as_they_come_until_the_end(tmp_path, event):
    out, view = Folder(str(tmp_path)), Kinds()
    out.write("metrics.jsonl", lines(event("start", 1.0)) + b'{"event": "mi')
    later = [
        b'x", "time": 2.0}\n' + lines(event("train", 3.0)),
        lines(event("end", 4.0, outcome="failed")),
    ]
    heard = []

    def pause(seconds):
        heard.append(list(view.kinds))
        out.append("metrics.jsonl", later.pop(0))

    assert watch(str(tmp_path), view, pause) == "failed"
    assert heard == [["start"], ["start", "mix", "train"]]
    assert view.kinds == ["start", "mix", "train", "end"]
    assert view.closed


def test_a_run_that_was_resumed_goes_on(tmp_path, event):
    out, view = Folder(str(tmp_path)), Kinds()
    first = [event("start", 1.0), event("end", 2.0, outcome="interrupted"), event("start", 3.0)]
    out.write("metrics.jsonl", lines(*first))

    def pause(seconds):
        out.append("metrics.jsonl", lines(event("end", 4.0, outcome="done")))

    assert watch(str(tmp_path), view, pause) == "done"
    assert view.kinds == ["start", "end", "start", "end"]


def test_a_run_that_has_not_begun_is_waited_for(tmp_path, event, capsys):
    view, looks = Kinds(), []

    def pause(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            ends = event("end", 1.0, outcome="done")
            Folder(str(tmp_path)).write("metrics.jsonl", lines(ends))

    assert watch(str(tmp_path), view, pause) == "done"
    said = f"nothing is recorded in {tmp_path} yet; waiting for a run to begin there\n"
    assert capsys.readouterr().err == said


def test_seeds_are_watched_one_after_the_other(tmp_path, event):
    view, seeds = Kinds(), [5, 7]

    def pause(seconds):
        if not seeds:
            Folder(str(tmp_path)).write("summary.json", b"{}")
            return
        seed = seeds.pop(0)
        folder = Folder(str(tmp_path / f"seed-{seed}")).create()
        ends = [event("train", 1.0), event("end", 1.0, outcome="done")]
        folder.write("metrics.jsonl", lines(*ends))
        os.utime(tmp_path / f"seed-{seed}" / "metrics.jsonl", (seed, seed))

    assert watch(str(tmp_path), view, pause) == "done"
    assert view.kinds == ["train", "end", "train", "end"]


def test_an_object_store_is_read_from_where_the_last_look_ended(object_store, event):
    out = Folder("s3://bucket/run").create()
    out.write("metrics.jsonl", lines(event("start", 1.0)))
    follower = Follower(out)
    assert [one["event"] for one in follower.new_events()] == ["start"]
    assert follower.new_events() == []
    out.append("metrics.jsonl", lines(event("mix", 2.0)))
    assert [one["event"] for one in follower.new_events()] == ["mix"]


def test_later_parts_in_an_object_store_are_followed(bucket_server, event, monkeypatch):
    """The run's own writer begins a part after two events; a second attempt goes on in the next."""
    monkeypatch.setattr(listeners, "_PART_BYTES", 2 * len(lines(event("mix", 1.0))))
    monkeypatch.setattr(listeners, "_REMOTE_SECONDS", 0.0)
    out, view = Folder("s3://mixes/followed/run").create(), Kinds()
    first = listeners.MetricsFile(out)
    first.on_events([event("mix", 0.0)])
    told = [
        lambda: first.on_events([event("mix", 1.0)]),  # fills `metrics.jsonl`
        lambda: first.on_events([event("mix", 2.0)]),
        lambda: listeners.MetricsFile(out).on_events([event("mix", 3.0), event("mix", 4.0)]),
        lambda: listeners.MetricsFile(out).on_events([event("end", 5.0, outcome="done")]),
    ]
    heard = []

    def pause(seconds):
        heard.append(len(view.kinds))
        told.pop(0)()

    assert watch(out.uri, view, pause) == "done"
    assert heard == [1, 2, 3, 5]
    assert view.kinds == ["mix"] * 5 + ["end"]
    assert listeners.metrics_files(out) == [
        "metrics.jsonl",
        *(f"metrics-{part:05d}.jsonl" for part in (1, 2, 3)),
    ]
    assert Follower(out).new_events() == read_events(out)


def test_a_line_that_a_part_cuts_off_is_not_put_before_the_next_part(tmp_path, event):
    out = Folder(str(tmp_path))
    out.write("metrics.jsonl", lines(event("mix", 1.0)) + b'{"event": "mi')
    follower = Follower(out)
    assert len(follower.new_events()) == 1
    out.write("metrics-00001.jsonl", lines(event("end", 2.0)))
    assert [one["event"] for one in follower.new_events()] == ["end"]


def test_another_run_in_the_same_place_is_read_from_its_start(tmp_path, event):
    out = Folder(str(tmp_path))
    out.write("metrics.jsonl", lines(event("start", 1.0), event("mix", 2.0)))
    follower = Follower(out)
    assert len(follower.new_events()) == 2
    out.write("metrics.jsonl", lines(event("start", 3.0)))
    assert [one["time"] for one in follower.new_events()] == [3.0]


def test_a_run_of_an_older_version_is_done_when_its_summary_is_old(tmp_path, event):
    out = Folder(str(tmp_path))
    out.write("metrics.jsonl", lines(event("start", 1.0), event("train", 2.0)))
    out.write("summary.json", b"{}")
    os.utime(tmp_path / "metrics.jsonl", (1000, 1000))
    looks = []
    assert watch(str(tmp_path), Kinds(), looks.append) == "done"
    assert len(looks) <= 1


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist; set --out to a run folder"):
        watch(str(tmp_path / "nothing"), Kinds())
