"""A cluster of `clusters.local` asks for a token: its ports can be reached from the network."""

import subprocess

import pytest

from clusters.local import autoscale, start


@pytest.fixture
def commands(monkeypatch):
    """What is run instead of Ray's commands: (words, environment)."""
    found = []

    def run(command, **options):
        found.append((command[1:], options.get("env")))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(start.subprocess, "run", run)
    return found


@pytest.fixture(autouse=True)
def _no_cluster_is_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(start, "STATE", tmp_path / "cluster.json")


def test_each_node_asks_for_the_token(commands, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    start.start(start.Options(nodes=3))
    assert commands[0][0] == ["get-auth-token", "--generate"]
    nodes = [(words, environment) for words, environment in commands if words[0] == "start"]
    assert len(nodes) == 3
    assert all(environment["RAY_AUTH_MODE"] == "token" for _, environment in nodes)
    assert "--head" in nodes[0][0]


def test_the_growing_cluster_asks_for_the_token(commands, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    autoscale.start(autoscale.Options())
    words, environment = commands[-1]
    assert words[:2] == ["start", "--head"]
    assert environment["RAY_AUTH_MODE"] == "token"


def test_a_mode_of_ones_own_stays(commands, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    start.start(start.Options(nodes=1))
    ((words, environment),) = commands
    assert words[0] == "start"
    assert environment["RAY_AUTH_MODE"] == "disabled"
