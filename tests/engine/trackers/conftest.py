"""A run's events and run folder for trackers."""

import io

import numpy as np
import pytest
from PIL import Image

from diffmix.storage import Folder
from engine.mixing.store import MixStore
from engine.testing import mix_table


def _epoch(kind: str, number: int, rank: int = 0) -> dict:
    times = {"start": 10.0 * number, "end": 10.0 * number + 8, "time": 10.0 * number + 8}
    counts = {"images": 320, "synthetic": 80, "pool": 64, "wait": 2.0, "loss": 2.0 - number}
    return {"event": kind, "rank": rank, "epoch": number, **times, **counts}


@pytest.fixture
def run_events() -> list[dict]:
    return [
        {"event": "start", "time": 0.0, "command": 0.0},
        {"event": "plan", "time": 0.0, "planned": 96, "stored": 32, "epochs": 2},
        {"event": "personalize_step", "time": 1.0, "step": 50, "steps": 100, "loss": 0.5},
        {"event": "mix", "time": 4.0, "start": 2.0, "end": 4.0, "actor": "a", "mixes": 16},
        {"event": "mix", "time": 5.0, "start": 2.0, "end": 6.0, "actor": "b", "mixes": 16},
        _epoch("train", 0),
        _epoch("train", 0, rank=1),
        {"event": "validation", "time": 19.0, "phase": "train", "epoch": 0, "top1": 0.25},
        _epoch("train", 1),
        {"event": "result", "time": 30.0, "train": 0.75, "baseline": None},
        {"event": "end", "time": 31.0, "outcome": "done", "error": ""},
    ]


@pytest.fixture
def run_folder(tmp_path) -> Folder:
    """A run folder with 40 mixes, of which every second is rejected."""
    out = Folder(str(tmp_path / "birds")).create()
    store = MixStore((out / "mixes").uri)
    store.bind({"class_names": ["Red_Fox", "狐"]})
    for chunk in range(5):
        files = []
        for number in range(8):
            file = io.BytesIO()
            pixels = np.full((16, 16, 3), 5 * (8 * chunk + number), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "PNG")
            files.append(file.getvalue())
        store.write(chunk, mix_table(8, 8 * chunk, image=files, accepted=[True, False] * 4))
    return out
