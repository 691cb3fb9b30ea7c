"""`diffmix ls`: which folders are runs, and what is said of each."""

import json

import pytest

from diffmix.errors import UserError
from diffmix.storage import Folder
from engine.display.runs import find_runs


def write(folder, *events: dict, **summary) -> None:
    out = Folder(str(folder)).create()
    out.write("metrics.jsonl", "".join(json.dumps(event) + "\n" for event in events).encode())
    if summary:
        out.write("summary.json", json.dumps(summary).encode())


def test_runs_are_found_at_any_depth_the_latest_first(tmp_path, event, running):
    write(tmp_path / "old", event("start", 10.0), event("end", 20.0, outcome="failed"))
    write(tmp_path / "birds" / "seed-1", *running)
    write(tmp_path / "birds" / "seed-1" / "mixes", event("start", 1.0))  # inside of a run
    (tmp_path / "notes").mkdir()
    found = find_runs(str(tmp_path), now=1030.0)
    assert [(run.name, run.state) for run in found] == [
        ("birds/seed-1", "mixing, training"),
        ("old", "failed"),
    ]
    assert [run.last for run in found] == [1020.0, 20.0]


def test_the_folder_itself_may_be_a_run(tmp_path, event):
    write(tmp_path, event("start", 10.0))
    assert [run.name for run in find_runs(str(tmp_path), now=11.0)] == ["."]


def test_figures_of_a_finished_run(tmp_path, running, event):
    summary = {
        "plan": {"planned": 200, "stored": 190, "rejected": 10},
        "accuracy": {"top1": 0.75},
        "baseline": {"top1": 0.5},
    }
    spent = event("spent", 1057.0, hours=0.1, gpu_hours=0.1, usd=2.5)
    write(tmp_path / "a", *running, spent, event("end", 1058.0, outcome="done"), **summary)
    (run,) = find_runs(str(tmp_path), now=2000.0)
    assert (run.state, run.accuracy, run.baseline) == ("done", 0.75, 0.5)
    assert (run.stored, run.planned) == (200, 200)
    assert run.seconds == 58.0
    assert run.usd == 2.5
    # Personalization 10 s, baseline 11 s, one mixer 8 s on one GPU each; training 8 s on two.
    assert run.gpu_hours == pytest.approx((10 + 11 + 8 + 2 * 8) / 3600)


@pytest.mark.parametrize(
    ("now", "summary", "state"),
    [(1030.0, {}, "waiting"), (9000.0, {}, "dead"), (9000.0, {"plan": {}}, "done")],
)
def test_a_silent_run_is_dead_unless_it_has_finished(tmp_path, running, event, now, summary, state):
    wait = event("waiting", 1020.0, text="waiting for mixers 0 of 1..8")
    write(tmp_path / "a", *running, wait, **summary)
    assert [run.state for run in find_runs(str(tmp_path), now)] == [state]


def test_runs_in_an_object_store(object_store, event):
    out = Folder("s3://bucket/runs/birds").create()
    out.write("metrics.jsonl", json.dumps(event("start", 10.0)).encode())
    assert [run.name for run in find_runs("s3://bucket/runs", now=11.0)] == ["birds"]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist; name a folder with runs"):
        find_runs(str(tmp_path / "nothing"))
