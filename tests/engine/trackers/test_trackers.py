"""MLflow, Weights & Biases, trackio and TensorBoard: each current release, installed into an
environment of its own, writes a run and reads it back with its own library.

Covers `engine/trackers/mlflow.py`, `engine/trackers/wandb.py`, `engine/trackers/trackio.py` and
`engine/trackers/optional.py`.
"""

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from diffmix.config import Config
from diffmix.errors import UserError
from engine.listeners import LISTENERS
from engine.trackers.optional import required

ROOT = Path(__file__).parents[3]
WRITE = """
import json, sys
from diffmix.config import Config
from diffmix.storage import Folder
from engine.listeners import LISTENERS

tracker = LISTENERS[{name!r}](Config(out={out!r}), Folder({out!r}))
events = json.load(open({events!r}))
tracker.on_events(events[:6])
tracker.on_events(events[6:])
tracker.close()
"""
READ = {
    "mlflow": """
from mlflow import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("diffmix")
(run,) = client.search_runs([experiment.experiment_id])
assert run.info.status == "FINISHED", run.info.status
assert run.data.params["mix.gamma"] == str(Config().mix.gamma)
history = client.get_metric_history(run.info.run_id, "train/loss")
assert [(one.step, one.value) for one in history] == [(1, 2.0), (2, 1.0)], history
assert client.get_metric_history(run.info.run_id, "train/test_top1")[0].value == 0.75
images = client.list_artifacts(run.info.run_id, "mixes")
assert len(images) == 16, images
""",
    "wandb": """
import glob, pathlib, struct
from wandb.proto import wandb_internal_pb2

def records(data):
    # LevelDB's log: blocks of 32 KiB, in them pieces with checksum, length and kind.
    place, whole = 7, b""  # after W&B's own header
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole, or its last piece
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""

(file,) = glob.glob("wandb/offline-run-*/*.wandb")
losses, images, options = [], 0, {}
for record in records(pathlib.Path(file).read_bytes()):
    row = {}
    for item in record.history.item:
        row[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    if "train/loss" in row:
        losses.append((row["step"], row["train/loss"]))
    images += sum(value.get("count", 0) for value in row.values() if isinstance(value, dict))
    images += row.get("mixes/count", 0)
    for item in record.run.config.update:
        options[item.key] = json.loads(item.value_json)
assert losses == [(1, 2.0), (2, 1.0)], losses
assert images == 16, images
assert options["mix.gamma"] == Config().mix.gamma, options
""",
    "trackio": """
import trackio

(run,) = trackio.Api().runs("diffmix")
assert run.name == "birds", run.name
from trackio.sqlite_storage import SQLiteStorage
logs = SQLiteStorage.get_logs("diffmix", "birds")
losses = [(row["step"], row["train/loss"]) for row in logs if "train/loss" in row]
assert losses == [(1, 2.0), (2, 1.0)], losses
assert sum("mixes" in row for row in logs) == 16
assert run.config["mix.gamma"] == Config().mix.gamma
""",
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

board = EventAccumulator({out!r} + "/tensorboard").Reload()
assert [(one.step, one.value) for one in board.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]
assert len([tag for tag in board.Tags()["images"] if tag.startswith("mixes/")]) == 16
""",
}
PACKAGES = {
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "tensorboard": ("tensorboard",),
}


def environment(folder: Path, packages: tuple[str, ...]) -> str:
    """The Python of a new environment with the current releases of packages, and this one's
    packages behind them.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "behind.pth").write_text("\n".join([*site.getsitepackages(), ""]))
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *packages], check=True)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_the_current_release_reads_back_what_was_written(name, tmp_path, run_folder, run_events):
    # TRACKERS names a folder of environments that are there already.
    kept = os.environ.get("TRACKERS")
    folder = Path(kept) / PACKAGES[name][0] if kept else tmp_path / "environment"
    python = str(folder / "bin" / "python") if kept else environment(folder, PACKAGES[name])
    events = tmp_path / "events.json"
    events.write_text(json.dumps(run_events))
    values = {"name": name, "out": run_folder.uri, "events": str(events)}
    program = tmp_path / "program.py"
    read = READ[name].replace("{out!r}", repr(run_folder.uri))
    program.write_text(WRITE.format(**values) + read)
    work = tmp_path / "work"
    work.mkdir()
    home = {"HOME": str(work), "TRACKIO_DIR": str(work / "trackio"), "WANDB_MODE": "offline"}
    home |= {"MLFLOW_TRACKING_URI": f"sqlite:///{work}/runs.db", "PYTHONPATH": str(ROOT)}
    home |= {"GIT_PYTHON_REFRESH": "quiet", "WANDB_SILENT": "true"}
    done = subprocess.run(
        [python, str(program)], cwd=work, env={**os.environ, **home}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_sentence(name, run_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"names {name}, which is not installed; pip install"):
        LISTENERS[name](Config(), run_folder)


def test_what_is_installed_is_the_module():
    assert required("json", "json") is json
