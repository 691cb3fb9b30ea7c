"""TensorBoard's files, read back record by record; TensorBoard's own reader is in
test_trackers.py.
"""

import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from diffmix.config import Config
from diffmix.storage import Folder
from engine.trackers.tensorboard import TensorBoard


def records(file: Path) -> list[Event]:
    """The events of a file of records: length, checksum, data, checksum."""
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def scalars(folder: Path) -> list[tuple[str, float, int]]:
    (file,) = folder.glob("events.*")
    return [
        (value.tag, round(value.simple_value, 6), event.step)
        for event in records(file)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def test_scalars_options_and_images_are_in_the_run_folder(run_folder, run_events):
    board = TensorBoard(Config(), run_folder)
    board.on_events(run_events[:6])
    board.on_events(run_events[6:])
    board.close()
    folder = Path(run_folder.path) / "tensorboard"
    found = scalars(folder)
    assert ("train/loss", 1.0, 2) in found
    assert ("mix/made", 64.0, 64) in found
    assert len(found) == 17
    (file,) = folder.glob("events.*")
    tags = {value.tag for event in records(file) for value in event.summary.value}
    assert "mixes/00" in tags
    assert any(tag.startswith("options") for tag in tags)


def test_in_an_object_store_the_files_are_uploaded(object_store, run_events):
    out = Folder("s3://bucket/run").create()
    board = TensorBoard(Config(), out)
    board.on_events(run_events)
    assert (out / "tensorboard").names() == []
    board._uploaded = -1e9
    board.on_events([])
    (name,) = (out / "tensorboard").names()
    before = len((out / "tensorboard").read(name))
    board.on_events(run_events)
    board.close()
    assert len((out / "tensorboard").read(name)) > before > 0


@pytest.mark.parametrize("events", [[], [{"event": "gpus", "time": 1.0, "used": 1, "all": 2}]])
def test_events_without_figures_are_fine(run_folder, events):
    board = TensorBoard(Config(), run_folder)
    board.on_events(events)
    board.close()
    assert scalars(Path(run_folder.path) / "tensorboard") == []
