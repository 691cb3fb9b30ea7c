"""A mixer's actor without Ray: what it stores and says of how it makes mixes."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.random_images import random_file
from diffmix.config import Config
from diffmix.plan import MixSpec
from engine.mixer import mixer_actor
from engine.mixer.mixer_actor import MixActor
from engine.mixing.job import MixJob
from engine.mixing.store import MixStore
from engine.testing import CopyingMixer, OtherwiseMixer

USUAL = {"device": "H100", "attention": "cudnn"}


class Events(list):
    """Stands in for the reporter."""

    def send(self, kind, **values):
        self.append({"event": kind, **values})

    def lost_mixers(self):
        return 0

    def of(self, kind):
        return [event for event in self if event["event"] == kind]


@pytest.fixture
def store(tmp_path):
    made = MixStore(str(tmp_path / "mixes"))
    made.bind({"plan": {"batch": 2}, "class_names": ["a", "b"]})
    made.keep_made_with(USUAL)
    return made


@pytest.fixture
def actor(store, monkeypatch):
    """`actor(mixer)`: an actor that holds it, and the events that it sends."""
    context = SimpleNamespace(
        get_actor_id=lambda: "0123456789abcdef",
        get_node_id=lambda: "node",
        was_current_actor_reconstructed=False,
        is_canceled=lambda: False,
    )
    monkeypatch.setattr(mixer_actor.ray, "get_runtime_context", lambda: context)

    def make(mixer) -> tuple[MixActor, Events]:
        events = Events()
        job = MixJob(
            config=Config(),
            real_path="",
            concept=None,
            store=store.folder.uri,
            reporter=events,
            build=mixer,
            made_with=store.made_with,
        )
        return MixActor(job, pass_on=True), events

    return make


def row(chunk: int) -> pa.Table:
    """A chunk of two mixes, as `stages.read_chunks` gives it."""
    file = random_file(np.random.default_rng(0), 8, 32)
    specs = [
        MixSpec(
            mix_id=2 * chunk + number,
            source_id=str(number),
            source_label=0,
            target_label=1,
            strength=0.5,
            seed=number,
        )
        for number in range(2)
    ]
    columns = {"specs": [[asdict(spec) for spec in specs]], "sources": [[file, file]]}
    return pa.table({"chunk": [chunk], **columns})


def test_what_is_made_as_the_store_says_carries_no_note(actor, store):
    plain, events = actor(CopyingMixer())
    plain(row(0))
    prepared, _ = actor(OtherwiseMixer(USUAL))
    prepared(row(1))
    assert events.of("note") == []
    metadata = store.read(0).schema.metadata or {}
    assert b"made_with" not in metadata
    assert store.part_made_with(1) == USUAL
    assert store.read(0)["image"].to_pylist() == store.read(1)["image"].to_pylist()


def test_what_is_made_otherwise_is_noted_in_each_part_and_said_once(actor, store):
    halved = {**USUAL, "device": "A100", "mixes_at_once": 1}
    other, events = actor(OtherwiseMixer(halved))
    other(row(0))
    other(row(1))
    assert store.part_made_with(0) == store.part_made_with(1) == halved
    assert [event["text"] for event in events.of("note")] == [
        "mixer-0123456789ab makes mixes with device A100, mixes_at_once 1, unlike the store's "
        "first ones; their last bits may differ, and its parts say so"
    ]
    store.write(0, store.read(0), "a scorer")
    assert store.part_made_with(0) == halved, "a filter that writes it again keeps it"
