"""What the user has to mend on a mixer's node, on a real cluster.

A module of its own: a mixer whose stream broke off keeps its GPU until the driver ends.
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from diffmix.errors import UserError
from engine import phases
from engine.run import run

pytestmark = pytest.mark.usefixtures("cluster")


@dataclass(frozen=True)
class Unusable:
    """`MixJob.build`: a mixer that says what the user has to mend, when it is built or when it mixes."""

    at_once: bool

    def __call__(self, job):
        if self.at_once:
            self.say()
        return SimpleNamespace(mix=lambda specs, sources: self.say())

    def say(self) -> None:
        raise UserError("There is no base model at /models/sd on this node; copy it there.")


@pytest.mark.parametrize("mode", ["staged", "overlapped"])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_stops_a_mixer_reaches_the_user_as_one_sentence(tmp_path, small_config, monkeypatch, mode, at_once):
    make_job = phases.mix_job
    monkeypatch.setattr(phases, "mix_job", lambda *arguments: replace(make_job(*arguments), build=Unusable(at_once)))
    with pytest.raises(UserError) as caught:
        run(small_config(tmp_path / "out", **{"run.mode": mode, "placement.max_failures": 0}))
    assert str(caught.value) == "There is no base model at /models/sd on this node; copy it there."
    assert type(caught.value) is UserError
