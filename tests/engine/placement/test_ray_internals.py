"""Ray's private parts that the project uses: each test fails where Ray changes one."""

import logging
import signal
import subprocess
import sys

import pytest
import ray
import ray.data
import ray.job_config
import ray.train
import yaml

from engine.placement import ray_internals
from engine.placement.ray_internals import (
    autoscaler_config,
    follow,
    free_resources,
    no_change,
    on_loopback,
    own_sigterm,
    resize,
    resolved_options,
    scaling_policy,
    search_only_the_drivers_path,
    silence_raised_errors,
    torch_backend,
)


def test_the_mark_of_ray_client_keeps_the_current_folder_out():
    """`ray.init` looks at it in `_private/worker.py`; test_cluster.py asks a worker."""
    config = ray.job_config.JobConfig()
    assert config._client_job is False
    search_only_the_drivers_path(config)
    assert config._client_job is True


def test_a_handler_of_sigterm_outlives_what_ray_sets():
    def mine(*_):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with own_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ray_data_has_the_loggers_that_are_silenced():
    import ray.data._internal.execution.streaming_executor_state
    import ray.data.exceptions

    modules = (ray.data.exceptions, ray.data._internal.execution.streaming_executor_state)
    for module, name in zip(modules, ray_internals._LOUD_LOGGERS, strict=True):
        assert module.logger.name == name
    silence_raised_errors()
    assert all(logging.getLogger(name).disabled for name in ray_internals._LOUD_LOGGERS)


def test_a_data_config_gives_its_options():
    options = ray.data.ExecutionOptions(label_selector={"a": "b"})
    found = resolved_options(ray.train.DataConfig(execution_options=options), "mix")
    assert found.label_selector == {"a": "b"}


def test_ray_data_knows_the_settings_of_the_stream():
    context = ray.data.DataContext()
    for name in ("execution_no_progress_timeout_s", "max_consecutive_actor_init_deaths"):
        assert hasattr(context, name)
    assert hasattr(context.autoscaling_config, "actor_pool_util_downscaling_threshold")


def test_rays_torch_backend_has_the_method_that_is_replaced():
    assert callable(torch_backend().on_start)


@pytest.mark.usefixtures("cluster")
def test_a_scaling_policy_of_our_own_is_what_the_controller_gets(monkeypatch):
    """test_attempt.py lets a real controller follow one."""
    from ray.train.v2._internal.execution import scaling_policy as parts
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    asked = {}
    monkeypatch.setattr(
        DataParallelTrainer,
        "_initialize_and_run_controller",
        lambda trainer, **settings: (
            asked.update(settings) or ray.train.Result(None, None, None, "")
        ),
    )
    trainer = DataParallelTrainer(print)
    follow(trainer, "mine")
    trainer.fit()
    assert asked["scaling_policy"] == "mine"
    assert "failure_policy" in asked
    assert scaling_policy().__abstractmethods__ == {
        "make_decision_for_non_running_worker_group",
        "make_decision_for_running_worker_group",
        "_get_num_workers_for_resource_request",
    }
    scaling = ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 2})
    assert resize(3, scaling) == parts.ResizeDecision(3, {"CPU": 2})
    assert isinstance(no_change(), parts.NoopDecision)


@pytest.mark.usefixtures("cluster")
def test_what_is_free_on_each_node():
    (node,) = (node["NodeID"] for node in ray.nodes() if node["Alive"])
    assert free_resources()[node]["GPU"] == ray.cluster_resources()["GPU"]


@pytest.mark.usefixtures("cluster")
def test_a_monitors_command_line_names_the_clusters_file(tmp_path):
    """A stand-in for the monitor of this cluster, and one of another cluster's. test_growth.py
    (tests/e2e) asks a real one.
    """
    assert autoscaler_config() is None
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump({"max_workers": 3}))
    script = tmp_path / "autoscaler" / "v2" / "monitor.py"
    script.parent.mkdir(parents=True)
    script.write_text("print('ready', flush=True); input()\n")
    address = ray.get_runtime_context().gcs_address
    for gcs, expected in (("192.0.2.9:1", None), (address, {"max_workers": 3})):
        command = [sys.executable, str(script), f"--gcs-address={gcs}"]
        monitor = subprocess.Popen(
            [*command, f"--autoscaling-config={file}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert monitor.stdout.readline() == "ready\n"
            assert autoscaler_config() == expected
        finally:
            monitor.communicate("\n")


def test_ray_still_has_the_monitors_whose_names_are_looked_for():
    from pathlib import Path

    for name in ray_internals._MONITORS:
        assert (Path(ray.__file__).parent / name).exists()


def test_this_machines_own_address_stays_what_it_is():
    """`ray.init` puts another in its place by this function, in `_private/worker.py`."""
    services = ray._private.services
    usual = services.resolve_ip_for_localhost
    with on_loopback():
        assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
    assert services.resolve_ip_for_localhost is usual
