"""Runs that several tests ask questions of, and how to read their folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def staged(tmp_path_factory, start_cluster, small_config) -> Path:
    """The folder of a finished staged run of `small_config`. Read only: see `copy_of_staged`."""
    from engine.run import run

    start_cluster()
    out = tmp_path_factory.mktemp("staged") / "out"
    run(small_config(out, **{"run.mode": "staged"}))
    return out


@pytest.fixture
def copy_of_staged(tmp_path, staged) -> Path:
    """A copy of `staged` that a test may change."""
    return Path(shutil.copytree(staged, tmp_path / "out"))


@pytest.fixture(scope="session")
def events() -> Callable[[Path, str], list[dict]]:
    """`events(out, kind)`: a run folder's events of one kind, in the order of `metrics.jsonl`."""

    def read(out: Path, kind: str) -> list[dict]:
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    return read


@pytest.fixture(scope="session")
def parts() -> Callable[[Path], dict[str, bytes]]:
    """`parts(out)`: the bytes of each part of a run folder's mix store, by name."""

    def read(out: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in sorted((out / "mixes").glob("part-*"))}

    return read
