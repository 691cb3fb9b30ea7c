"""Personalization on Ray Train: prior preservation's images in the run folder, steps as they are
told, reuse.
"""

import json

import pytest

from diffmix.generator.concept import Concept
from engine.phases import personalize
from engine.session import open_session

pytestmark = pytest.mark.usefixtures("cluster")


def test_prior_images_are_made_once_into_the_run_folder_by_all_workers(tmp_path, small_config):
    out = tmp_path / "out"
    options = {
        "mix.strategy": "diff-mix",
        "personalize.steps": 8,
        "personalize.large_batch": 2,
        "personalize.prior_weight": 1.0,
        "personalize.prior_images": 12,
        "placement.personalizers": 2,
    }
    with open_session(small_config(out, **options)) as session:
        uri = personalize(session)
    assert len(list((out / "prior").rglob("*.png"))) == 16  # whole chunks
    concept = Concept.load(uri)
    assert concept.settings["prior_weight"] == 1.0
    assert concept.steps == 4
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [
        (event["step"], event["steps"]) for event in events if event["event"] == "personalize_step"
    ]
    assert steps[-1] == (4, 4)

    with open_session(small_config(out, **options)) as session:  # nothing left to do
        assert personalize(session) == uri
    assert Concept.load(uri).fingerprint == concept.fingerprint
