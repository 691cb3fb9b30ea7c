"""Ray's metrics: their values, the dashboard's names, and what an agent's endpoint gives."""

import json
import re
import urllib.request
from pathlib import Path
from threading import Event

import pytest

from diffmix.config import Config
from engine.listeners import LISTENERS
from engine.trackers.ray_metrics import METRICS

DASHBOARD = Path(__file__).parents[3] / "clusters" / "grafana" / "diffmix.json"


class Gauge:
    """Stands in for Ray's."""

    values: dict[str, float]

    def __init__(self, name, description, tag_keys):
        assert description
        self.name = name

    def set_default_tags(self, tags):
        self.tags = tags

    def set(self, value):
        Gauge.values[self.name] = value


def test_gauges_have_what_the_events_say(run_folder, run_events, monkeypatch):
    Gauge.values = {}
    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    tracker = LISTENERS["ray"](Config(), run_folder)
    ready = {"event": "mixer_ready", "time": 2.0, "actor": "a", "start": 0.0, "end": 2.0}
    wait = {"event": "waiting", "time": 6.0, "text": "waiting for mixers"}
    usage = {"event": "gpus", "time": 6.0, "used": 3, "all": 4}
    tracker.on_events([*run_events[:3], ready, *run_events[3:5], wait, usage])
    assert Gauge.values["diffmix_mixes_made"] == 64
    assert Gauge.values["diffmix_mixes_planned"] == 96
    assert Gauge.values["diffmix_mixers_ready"] == 2
    # a held its GPU for 4 s and mixed for 2, b for 4 and 4.
    assert Gauge.values["diffmix_mixer_busy_share"] == pytest.approx(6 / 8)
    assert Gauge.values["diffmix_waiting"] == 1
    assert Gauge.values["diffmix_gpus_used"] == 3
    assert "diffmix_train_loss" not in Gauge.values
    tracker.on_events([{"event": "waiting", "time": 7.0, "text": ""}, *run_events[5:]])
    assert Gauge.values["diffmix_waiting"] == 0
    assert Gauge.values["diffmix_train_loss"] == 1.0
    assert Gauge.values["diffmix_data_wait_share"] == pytest.approx(0.25)
    assert Gauge.values["diffmix_mixes_available"] == 128
    assert Gauge.values["diffmix_validation_accuracy"] == 0.75


def names_in(dashboard: dict) -> set[str]:
    texts = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    texts += [one["query"] for one in dashboard["templating"]["list"]]
    return set(re.findall(r"ray_(diffmix_\w+)", " ".join(texts)))


def test_the_dashboard_shows_every_metric_and_no_other():
    dashboard = json.loads(DASHBOARD.read_text())
    assert names_in(dashboard) == set(METRICS)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.slow
@pytest.mark.cluster
def test_an_agents_endpoint_has_the_dashboards_names(run_folder, run_events, monkeypatch):
    """On a cluster of its own, with the dashboard's agent, which tests' clusters leave out."""
    import ray

    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    ray.init(address="local", num_cpus=1, num_gpus=0, include_dashboard=True)
    try:
        tracker = LISTENERS["ray"](Config(), run_folder)
        usage = {"event": "gpus", "time": 6.0, "used": 3, "all": 4}
        tracker.on_events([*run_events[:-1], usage])
        port = ray.nodes()[0]["MetricsExportPort"]
        found: set[str] = set()
        for _ in range(60):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                text = answer.read().decode()
            found = set(re.findall(r"^ray_(diffmix_\w+)\{", text, re.MULTILINE))
            if found >= set(METRICS):
                break
            Event().wait(1.0)
        assert found == set(METRICS)
        assert f'run="{run_folder.uri}"' in text
    finally:
        ray.shutdown()
