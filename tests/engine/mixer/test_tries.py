"""A chunk that fails is tried again and set aside; a mixer that hangs ends.

Covers `engine/mixer/mixer_actor.py` too. With real actors: tests/faults/test_cluster.py.
"""

import os
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray

from diffmix.config import Config, MixConfig, RunConfig
from diffmix.errors import UserError
from diffmix.plan import make_plan
from diffmix.storage import Folder
from engine.mixer import tries
from engine.mixer.mixer_actor import MixActor
from engine.mixer.tries import Deadline, SetAside, check_number, most_set_aside
from engine.mixing.job import MixJob
from engine.mixing.store import MixStore
from engine.telemetry import Reporter
from engine.testing import EncodedImage

CONFIG = Config(mix=MixConfig(count=12, batch=2, strategy="real-mix", num_inference_steps=4))


class Kept(Reporter):
    def __init__(self, lost=0):
        self.events, self.lost = [], lost

    def lost_mixers(self):
        return self.lost

    def send(self, kind, **values):
        self.events.append((kind, values))


class Failing:
    """A mixer whose first `failures` calls raise."""

    def __init__(self, failures: int, error: Exception):
        self.failures, self.error, self.calls = failures, error, 0

    def mix(self, specs, sources):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return [EncodedImage(b"%d" % spec.mix_id) for spec in specs]


@pytest.fixture
def actor(tmp_path, tiny_real, monkeypatch):
    """`actor(mixer)` is a mixer's actor without Ray, and `row(chunk)` what it is called with."""

    def make(mixer, restarted=False, most=1, canceled=False, lost=0):
        context = SimpleNamespace(
            get_actor_id=lambda: "0" * 16,
            get_node_id=lambda: "node",
            was_current_actor_reconstructed=restarted,
            is_canceled=lambda: canceled,
        )
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        job = MixJob(
            config=CONFIG,
            real_path=tiny_real.path,
            concept=None,
            store=str(tmp_path),
            reporter=Kept(lost),
            build=lambda job: mixer,
            most_set_aside=most,
        )
        return MixActor(job, pass_on=True)

    return make


@pytest.fixture
def row(tiny_real):
    plan = make_plan(CONFIG, tiny_real)
    return lambda chunk: pa.table(
        {
            "chunk": [chunk],
            "specs": [[asdict(spec) for spec in plan.chunk(chunk)]],
            "sources": [[b""] * len(plan.chunk(chunk))],
        }
    )


def test_a_chunk_that_fails_once_is_made(tmp_path, actor, row):
    mixer = Failing(1, RuntimeError("a bad moment"))
    made = actor(mixer)
    assert made(row(2)).num_rows == 2
    assert mixer.calls == 2
    assert MixStore(str(tmp_path)).stored_chunks() == {2}
    assert [kind for kind, _ in made.job.reporter.events] == ["mixer_ready", "mix_failed", "mix"]


def test_a_poisoned_chunk_is_set_aside_and_the_next_one_is_made(tmp_path, actor, row):
    mixer = Failing(3, RuntimeError("poison\nin two lines"))
    made = actor(mixer)
    assert made(row(4)).num_rows == 0
    aside = SetAside(Folder(str(tmp_path)))
    assert (aside.chunks(), aside.mixes()) == ({4}, 2)
    assert aside.reasons() == {4: "RuntimeError: poison"}
    assert made(row(5)).num_rows == 2
    assert (
        "set_aside",
        {"chunk": 4, "mixes": 2, "reason": "RuntimeError: poison", "tries": 3},
    ) in (made.job.reporter.events)
    # The mixer that takes its place, should it die, does not try it again.
    assert actor(mixer, restarted=True)(row(4)).num_rows == 0
    assert mixer.calls == 4


def test_a_user_error_is_not_tried_again(actor, row):
    mixer = Failing(1, UserError("There is no such file."))
    with pytest.raises(UserError):
        actor(mixer)(row(0))
    assert mixer.calls == 1


def test_too_many_are_no_accident(tmp_path, actor, row):
    made = actor(Failing(100, RuntimeError("broken")))
    made(row(0))
    with pytest.raises(UserError, match=r"2 chunks .* RuntimeError: broken; .*--run.repair True"):
        made(row(1))
    assert most_set_aside(RunConfig(max_set_aside=0.02), 500) == 10
    assert most_set_aside(RunConfig(max_set_aside=0.0), 500) == 1
    check_number(Folder(str(tmp_path)), 2)


def test_a_chunk_that_kills_its_mixers_is_set_aside(tmp_path, actor, row):
    """After the first death each mixer leaves a note, which only its own death leaves behind."""
    aside = SetAside(Folder(str(tmp_path)))
    mixer = Failing(0, RuntimeError())
    deaths = tries.DEATHS_FOR_A_TRY * CONFIG.run.chunk_tries
    for _ in range(deaths - 1):
        aside.beginning(3)
    assert actor(mixer, lost=1)(row(3)).num_rows == 2
    (tmp_path / "part-00000003.parquet").unlink()
    aside.beginning(3)
    assert actor(mixer, lost=1)(row(3)).num_rows == 0
    assert aside.reasons() == {3: "its mixer died"}
    aside.forget_tries()
    aside.clear()
    assert actor(mixer, restarted=True)(row(3)).num_rows == 2


def test_a_stream_that_was_given_up_makes_no_further_chunk(actor, row):
    mixer = Failing(0, RuntimeError())
    with pytest.raises(RuntimeError, match="given up"):
        actor(mixer, canceled=True)(row(0))
    assert mixer.calls == 0


def test_a_stored_chunk_is_not_made_again(actor, row):
    mixer = Failing(0, RuntimeError())
    made = actor(mixer)
    first = made(row(1))
    assert made(row(1)).equals(first)
    assert mixer.calls == 1


def test_the_deadline_follows_the_slowest_chunk():
    deadline = Deadline(None)
    assert deadline.seconds == tries.FIRST_DEADLINE
    deadline.took(3)
    assert deadline.seconds == tries.LEAST_DEADLINE
    deadline.took(100)
    deadline.took(50)
    assert deadline.seconds == 1000
    assert Deadline(7.0).seconds == 7


def test_a_mixer_that_hangs_ends_and_says_why(tmp_path):
    code = (
        "import sys, threading\n"
        "from diffmix.storage import Folder\n"
        "from engine.mixer.tries import Deadline, SetAside\n"
        "aside = SetAside(Folder(sys.argv[1]))\n"
        "with Deadline(0.2).watching(lambda why: aside.failed(6, why)): threading.Event().wait()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=120)
    assert ended.returncode == -9
    assert SetAside(Folder(str(tmp_path))).tries(6) == ["it took longer than 0.2 s"]
    with Deadline(60).watching(os.abort):
        pass  # in time
