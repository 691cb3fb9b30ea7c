"""The split that `placement.auto` chooses is the one that then runs, with the real mixer and
classifier timed for it.
"""

import json

import pytest
import torch

from diffmix.classifier import model as models
from diffmix.classifier.model import build_model
from diffmix.errors import UserError
from engine import phases
from engine.placement.calibrate import calibrate, time_train_steps
from engine.run import run
from engine.session import open_session


def events(out, kind: str) -> list[dict]:
    return [
        event
        for line in (out / "metrics.jsonl").read_text().splitlines()
        if (event := json.loads(line))["event"] == kind
    ]


def test_train_steps_are_timed_for_every_number_of_workers(tmp_path, small_config):
    found = time_train_steps(small_config(tmp_path, **{"train.batch_size": 64}), 4, [1, 8])
    assert found[1] > found[8] > 0  # 64 images on one worker against 8


def test_shares_that_do_not_fit_in_memory_are_left_out(tmp_path, small_config, monkeypatch):
    make, most = build_model, 8

    def small_memory(train, num_classes):
        def check(_, inputs):
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        model = make(train, num_classes)
        model.register_forward_pre_hook(check)
        return model

    monkeypatch.setattr(models, "build_model", small_memory)
    config = small_config(tmp_path, **{"train.batch_size": 64})
    assert set(time_train_steps(config, 4, [1, 2, 8, 16])) == {8, 16}
    most = 2
    with pytest.raises(UserError, match=r"4 images of 24 px does not fit.*--train\.batch_size"):
        time_train_steps(config, 4, [1, 2, 8, 16])


class Known:
    """A `StepTimer` that is a method, as benchmarks have it."""

    def time_steps(self, config, num_classes, workers):
        return {n: 1.0 / n for n in workers}


@pytest.mark.usefixtures("cluster")
def test_pairs_need_even_shares(tmp_path, small_config):
    config = small_config(
        tmp_path / "out", **{"train.batch_size": 12, "train.mixup_alpha": 1.0, "mix.count": 4}
    )
    with open_session(config, mixes=True) as session:
        session.source.open(session.config, None)
        job = phases.mix_job(session, None)
        rates = calibrate(session, job, Known().time_steps)
    assert set(rates.train_seconds) == {1, 2, 3}  # 4 workers would have 3 images each


class Listens:
    """A listener that a caller of `run` gives."""

    def __init__(self):
        self.kinds = []

    def on_events(self, events):
        self.kinds += [event["event"] for event in events]

    def close(self):
        self.kinds.append("closed")


@pytest.mark.usefixtures("cluster")
def test_auto_runs_the_split_that_it_predicts(tmp_path, small_config):
    out = tmp_path / "out"
    # The numbers given here are not what runs: five mixers would not fit.
    changes = {"placement.auto": True, "placement.mixers": (5,), "mix.count": 24}
    listener = Listens()
    summary = run(small_config(out, **changes), listeners=[listener])
    assert {"start", "calibration", "split", "mix", "train"} <= set(listener.kinds)
    assert listener.kinds[-1] == "closed"
    assert summary["plan"]["stored"] == 24
    (calibration,), (split,) = events(out, "calibration"), events(out, "split")
    assert calibration["mixer"] > 0
    assert set(calibration["step_seconds"]) == {
        "1",
        "2",
        "4",
    }  # what divides the batch of 8, on 4 GPUs
    assert split["gpus"] == split["mixers"] + split["trainers"] <= 4
    assert 1 <= len({event["actor"] for event in events(out, "mix")}) <= split["mixers"]
    assert {event["rank"] for event in events(out, "train")} == set(range(split["trainers"]))
