"""Covers a fact that the cluster files rely on: when Ray's autoscaler tries another node group."""

from __future__ import annotations

import pytest
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent


@pytest.mark.parametrize(
    ("status", "avoided"),
    [(Instance.ALLOCATION_TIMEOUT, True), (Instance.ALLOCATION_FAILED, False)],
)
def test_a_group_is_avoided_after_a_timeout_but_not_after_a_refusal(status, avoided):
    """On Kubernetes a spot pod stays pending, which is a timeout: the on-demand group is next. A
    cloud refuses at once, and Ray asks again for ever: hence clusters/{aws,gcp}/spot_first.py.
    When the second case fails, these files can go and an on-demand group can take their place.
    """
    monitor = CloudResourceMonitor()
    event = InstanceUpdateEvent(
        instance_id="1", instance_type="mix", new_instance_status=status, details="no capacity"
    )
    monitor.notify([event])
    assert (monitor.get_recoverable_resource_availabilities().get("mix", 1.0) == 0.0) == avoided
