"""The split that `placement.auto` chooses is the one that then runs, with the real mixer and classifier timed for it."""

import json

import pytest

from engine.calibrate import time_train_steps
from engine.run import run


def events(out, kind: str) -> list[dict]:
    return [event for line in (out / "metrics.jsonl").read_text().splitlines() if (event := json.loads(line))["event"] == kind]


def test_train_steps_are_timed_for_every_number_of_workers(tmp_path, small_config):
    found = time_train_steps(small_config(tmp_path, **{"train.batch_size": 64}), 4, [1, 8])
    assert found[1] > found[8] > 0  # 64 images on one worker against 8


@pytest.mark.usefixtures("cluster")
def test_auto_runs_the_split_that_it_predicts(tmp_path, small_config):
    out = tmp_path / "out"
    # The numbers given here are not what runs: five mixers would not fit.
    summary = run(small_config(out, **{"placement.auto": True, "placement.mixers": (5,), "mix.count": 24}))
    assert summary["plan"]["stored"] == 24
    (calibration,), (split,) = events(out, "calibration"), events(out, "split")
    assert calibration["mixer"] > 0
    assert set(calibration["step_seconds"]) == {"1", "2", "4"}  # what divides the batch of 8, on 4 GPUs
    assert split["gpus"] == split["mixers"] + split["trainers"] <= 4
    assert 1 <= len({event["actor"] for event in events(out, "mix")}) <= split["mixers"]
    assert {event["rank"] for event in events(out, "train")} == set(range(split["trainers"]))
