"""Every planned mix is counted once in `summary.json`, whatever has become of it."""

import json
from collections import Counter
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from engine.mixer.tries import SetAside
from engine.mixing.store import SCHEMA
from engine.nodes.ask_ahead import AskAhead
from engine.placement.capacity import Capacity
from engine.placement.preflight import check_inputs
from engine.results import report
from engine.results.summary import write_summary
from engine.seeds import _added
from engine.session import Session

WHOLE = {"planned": 40, "stored": 40, "rejected": 0, "set_aside": 0}
FATES = ("stored", "rejected", "set aside", "stored and set aside", "left out")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", ["usd", None])
def test_the_counts_add_up(tmp_path, small_config, monkeypatch, seed, limit):
    """Chunks with random fates. One may be both: a mixer of a stream that was given up has stored
    it after another one had set it aside.
    """
    monkeypatch.setattr(report, "write_report", lambda *_: "")
    inputs = check_inputs(small_config(tmp_path / "out"))
    plan, store = inputs.source.plan(inputs.config), inputs.source.store
    store.folder.create().write("plan.json", json.dumps({"gate": {}}).encode())
    aside, counted = SetAside(store.folder), Counter()
    fates = np.random.default_rng(seed).choice(FATES, plan.num_chunks)
    for chunk, fate in enumerate(fates.tolist()):
        specs = plan.chunk(chunk)
        if "aside" in fate:
            aside.put(chunk, len(specs), "poisoned")
        if "stored" in fate or fate == "rejected":
            judged = {"image": b"x", "score": 0.5, "accepted": fate != "rejected"}
            rows = [{**asdict(spec), **judged} for spec in specs]
            store.write(chunk, pa.Table.from_pylist(rows, schema=SCHEMA))
        counted[fate] += len(specs)
    nothing = Capacity(nodes=[], grows=False)
    session = Session(
        config=inputs.config,
        out=inputs.out,
        data=inputs.data,
        source=inputs.source,
        telemetry=SimpleNamespace(
            collect=lambda: None, events=[], stopped=limit, record=lambda *_, **__: None
        ),
        capacity=nothing,
        ahead=AskAhead(inputs.config.placement, nothing),
        marker=None,
    )
    found = write_summary(session, mixed=True)["plan"]
    left = {"cut" if limit else "missing": counted["left out"]} if counted["left out"] else {}
    assert found == {
        "planned": 40,
        "stored": counted["stored"] + counted["stored and set aside"],
        "rejected": counted["rejected"],
        "set_aside": counted["set aside"],
        **left,
    }
    assert sum(found.values()) == 2 * found["planned"]


def test_the_counts_of_several_seeds_add_up():
    """Also where a limit has cut only one of them."""
    cut = {**WHOLE, "stored": 30, "cut": 10}
    assert _added([WHOLE, cut]) == {**WHOLE, "planned": 80, "stored": 70, "cut": 10}
