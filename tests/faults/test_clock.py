"""The machine's clock is set back by an hour: no work ends before it began, what a run has cost
goes on from where it was, and whoever holds a run folder keeps it.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from diffmix.config import Config, LimitsConfig
from diffmix.errors import UserError
from diffmix.storage import Folder
from engine import phases
from engine.budget import budget as budget_module
from engine.budget.budget import keeping_limits
from engine.budget.spending import Sight
from engine.lease import held
from engine.mixing.job import MixJob, build_mixer
from engine.run import run_mixing
from engine.telemetry import now

HOUR = 3600.0
CLOCK = time.time


def set_back() -> None:
    """For this process alone: whoever asks for the time of day gets one of an hour ago."""
    time.time = lambda: CLOCK() - HOUR


@pytest.fixture
def clock_set_back(monkeypatch):
    """Call it to set this process's clock back until the test is over."""
    monkeypatch.setattr(time, "time", CLOCK)
    return set_back


@dataclass(frozen=True)
class SetBack:
    """`MixJob.build` of real mixers. In each one's process the clock is set back within the first
    chunk.
    """

    def __call__(self, job: MixJob) -> "_SetBackMixer":
        return _SetBackMixer(build_mixer(job))


@dataclass(frozen=True)
class _SetBackMixer:
    mixer: object

    def mix(self, specs, sources):
        set_back()
        return self.mixer.mix(specs, sources)


def test_events_go_on_from_where_they_were(clock_set_back):
    before = now()
    assert abs(before - CLOCK()) < 60
    clock_set_back()
    assert before <= now() < before + 60


def test_an_owner_keeps_its_lease(tmp_path, monkeypatch):
    """psutil's times of day are made of the machine's start, which is made of its clock."""
    linux = pytest.importorskip("psutil._pslinux")
    out, real = Folder(str(tmp_path)), linux.boot_time
    with held(out):
        monkeypatch.setattr(linux, "boot_time", lambda: real() - HOUR)
        assert abs(psutil.Process().create_time() - CLOCK()) > HOUR / 2
        with pytest.raises(UserError, match="in use by another run"), held(out):
            pass


def test_what_a_run_has_cost_goes_on_from_where_it_was(monkeypatch, clock_set_back):
    """Looked at before and after, by the clock that limits go by."""
    seen = []

    def look(moment: float) -> Sight:
        seen.append(moment)
        return Sight(time=moment, gpus=1.0, nodes={})

    monkeypatch.setattr(budget_module, "look", look)
    events: list[dict] = []
    telemetry = SimpleNamespace(
        events=events,
        stopped=None,
        record=lambda kind, **values: events.append({"event": kind, **values}),
    )
    config = Config(limits=LimitsConfig(hours=1000.0))
    with keeping_limits(SimpleNamespace(config=config, telemetry=telemetry)):
        clock_set_back()
    assert len(seen) == 2
    assert 0 <= seen[1] - seen[0] < 60
    assert events[-1]["event"] == "spent"
    assert events[-1]["hours"] == pytest.approx((seen[1] - seen[0]) / HOUR)


@pytest.mark.usefixtures("cluster")
def test_a_run_whose_clock_is_set_back(
    tmp_path, small_config, monkeypatch, clock_set_back, when, events, parts
):
    """On the mixers' side within their first chunk, on the driver's after two."""
    make_job, build = phases.mix_job, SetBack()
    monkeypatch.setattr(phases, "mix_job", lambda *given: replace(make_job(*given), build=build))
    out: Path = tmp_path / "out"
    turned = when(lambda: len(parts(out)) >= 2, clock_set_back)
    summary = run_mixing(small_config(out))
    assert turned.moment is not None
    assert summary["plan"] == {"planned": 40, "stored": 40, "rejected": 0, "set_aside": 0}
    made = [event for event in events(out) if event["event"] == "mix"]
    assert all(event["end"] >= event["start"] for event in made)
    assert 0 < summary["seconds"]["generate"] < HOUR / 2
    assert 0 < summary["seconds"]["wall"] < HOUR / 2
    assert 0 < summary["mixer"]["busy_fraction"] <= 1
