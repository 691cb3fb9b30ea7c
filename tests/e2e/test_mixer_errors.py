"""A user error on a mixer's node reaches the user as one sentence, and frees the GPUs."""

import gc
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
import ray

from diffmix.errors import UserError
from engine import phases
from engine.mixer.start import TRIES
from engine.mixing.job import build_mixer
from engine.run import run
from engine.testing import CopyingMixer

pytestmark = pytest.mark.usefixtures("cluster")

SENTENCE = "There is no base model at /models/sd on this node; copy it there."


@dataclass(frozen=True)
class Unusable:
    """`MixJob.build`: a mixer that raises a user error, when it is built or when it mixes."""

    at_once: bool

    def __call__(self, job):
        if self.at_once:
            self.say()
        return SimpleNamespace(mix=lambda specs, sources: self.say())

    def say(self) -> None:
        raise UserError(SENTENCE)


@pytest.mark.parametrize(("mode", "at_once"), [("staged", True), ("overlapped", False)])
def test_what_stops_a_mixer_reaches_the_user_as_one_sentence(
    tmp_path, small_config, monkeypatch, mode, at_once
):
    replace_build(monkeypatch, Unusable(at_once))
    assert what_stops(small_config(tmp_path / "out", **{"run.mode": mode})) == SENTENCE
    gc.collect()
    end = time.monotonic() + 60
    while ray.available_resources().get("GPU", 0) < ray.cluster_resources()["GPU"]:
        assert time.monotonic() < end, "a mixer keeps its GPU"
        Event().wait(0.2)  # the cluster sends no event


@dataclass(frozen=True)
class Starts:
    """`MixJob.build`: a mixer that cannot start for the first `failures` times."""

    failures: int
    folder: str

    def __call__(self, job):
        done = len(os.listdir(self.folder))
        if done < self.failures:
            Path(self.folder, f"{done}").touch()
            raise OSError("429 Client Error: Too Many Requests")
        return build_mixer(job)


def test_a_mixer_that_cannot_start_at_first_starts_later(
    tmp_path, small_config, monkeypatch, events
):
    """More failures than one actor tries."""
    (tmp_path / "failures").mkdir()
    build = Starts(TRIES + 1, str(tmp_path / "failures"))
    replace_build(monkeypatch, build)
    out = tmp_path / "out"
    assert run(small_config(out, **{"mix.count": 8, "train.epochs": 1}))["plan"]["stored"] == 8
    failed = events(out, "mixer_failed")
    assert [event["attempt"] for event in failed] == [1, 2, 3, 1]
    assert {event["reason"] for event in failed} == {"429 Client Error: Too Many Requests"}
    assert len(events(out, "worker_ready")) == 1  # nothing restarted


def test_mixers_that_can_never_start_end_the_run_with_the_reason(
    tmp_path, small_config, monkeypatch, events
):
    (tmp_path / "failures").mkdir()
    replace_build(monkeypatch, Starts(1000, str(tmp_path / "failures")))
    out = tmp_path / "out"
    sentence = what_stops(small_config(out))
    assert sentence.startswith("No mixer could start (")
    assert "429 Client Error: Too Many Requests" in sentence
    assert len(events(out, "worker_ready")) == 1


def replace_build(monkeypatch, build) -> None:
    make_job = phases.mix_job
    monkeypatch.setattr(
        phases, "mix_job", lambda *arguments: replace(make_job(*arguments), build=build)
    )


def what_stops(config) -> str:
    try:
        run(config)
    except (
        UserError
    ) as error:  # `pytest.raises` would keep it, and by its frames what Ray Train holds
        return str(error)
    return "nothing"


@dataclass(frozen=True)
class TooLarge:
    """`TrainJob.build`: a loop whose first step does not fit in memory. It counts its attempts in a
    file.
    """

    attempts: str

    def __call__(self, job, pool, arrivals):
        return self

    def run(self) -> None:
        import torch

        with open(self.attempts, "a") as file:
            file.write("x")
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def test_training_that_does_not_fit_is_one_sentence_after_one_attempt(
    tmp_path, small_config, monkeypatch
):
    build = TooLarge(str(tmp_path / "attempts"))
    monkeypatch.setattr(phases, "train_classifier", partial(phases.train_classifier, build=build))
    monkeypatch.setattr(phases, "build_mixer", CopyingMixer())
    changes = {"run.mode": "staged", "placement.max_failures": 3, "mix.count": 4}
    assert what_stops(small_config(tmp_path / "out", **changes)) == (
        "--train.batch_size 8 does not fit in memory (CUDA out of memory. Tried to allocate "
        "2.00 GiB); lower --train.batch_size, add train workers or raise --train.zero_stage."
    )
    assert (tmp_path / "attempts").read_text() == "x"
