"""The events of a small run, second by second from 1000, as they stand in `metrics.jsonl`."""

import pytest


def _event(kind: str, time: float, **values) -> dict:
    return {"event": kind, "time": time, **values}


@pytest.fixture
def event():
    """`event(kind, time, **values)` is an event."""
    return _event


@pytest.fixture
def running() -> list[dict]:
    """Personalized in 10 s, the baseline done; one of two mixers has made 96 of 200 mixes, 16 a
    second from second 1014; two epochs of eight are trained.
    """
    epochs = []
    for number in (0, 1):
        times = {"start": 1018.0 + number, "end": 1019.0 + number}
        for rank in (0, 1):
            values = {"rank": rank, "epoch": number, "loss": 1.5 - number, "wait": 0.25 * rank}
            epochs.append(_event("train", times["end"], **times, **values, pool=40 + 8 * number))
    return [
        _event("start", 1000.0, command=998.0, format_version=2),
        _event("plan", 1000.1, planned=200, stored=0, epochs=8),
        _event("phase", 1001.0, phase="personalize", state="begin", workers=1, gpus=1),
        _event("phase", 1001.0, phase="baseline", state="begin", workers=1, gpus=1),
        _event("personalize_step", 1006.0, step=50, steps=100, loss=0.5),
        _event("personalize", 1011.0, start=1001.0, end=1011.0),
        _event("phase", 1012.0, phase="baseline", state="end"),
        _event("phase", 1012.0, phase="mix", state="begin", workers=2, gpus=2),
        _event("phase", 1012.0, phase="train", state="begin", workers=2, gpus=2),
        _event("mixer_ready", 1014.0, actor="a", node="n", start=1012.0, end=1014.0),
        *(
            _event("mix", t + 1, actor="a", start=t, end=t + 1.0, mixes=16, chunk=int(t))
            for t in range(1014, 1020)
        ),
        *epochs,
        _event("validation", 1020.0, phase="train", epoch=1, top1=0.625),
        _event("gpus", 1020.0, used=3, all=4),
    ]
