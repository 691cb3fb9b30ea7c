"""Calls with a mixer's resources, on the shared cluster. test_batch_size.py (tests/engine/mixing)
has the real measurement, in a process of its own each time.
"""

from threading import Event

import pytest
import ray

from diffmix.config import PlacementConfig
from diffmix.errors import UserError
from engine.nodes.on_a_mixing_node import on_a_mixing_node, patiently

pytestmark = pytest.mark.usefixtures("cluster")


def test_it_has_what_a_mixer_gets(caplog):
    def resources(name):
        return ray.get_runtime_context().get_assigned_resources()[name]

    assert on_a_mixing_node("it", PlacementConfig(gpus_per_mixer=2.0), resources, "GPU") == 2.0
    assert not caplog.text


def test_a_users_mistake_there_is_one_here():
    def wrong():
        raise UserError("The model is damaged.")

    with pytest.raises(UserError, match=r"^The model is damaged\.$"):
        on_a_mixing_node("it", PlacementConfig(), wrong)


def test_what_takes_long_is_said_once(caplog):
    def long():
        return Event().wait(1.0)

    held = ray.remote(num_cpus=0)(long).remote()
    done = ray.put("done")
    assert patiently("mix.batch auto", [done, held], patience=0.1) == ["done", False]
    assert caplog.text.count("waiting for mix.batch auto (1 of 2 tasks are done)") == 1
