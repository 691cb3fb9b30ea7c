"""What `summary.json` is put together from. Whole runs' summaries are in tests/e2e/test_run.py."""

import json
from types import SimpleNamespace

from diffmix.format_version import FORMAT_VERSION, KEY
from engine.nodes.ask_ahead import AskAhead
from engine.placement.capacity import Capacity
from engine.placement.preflight import check_inputs
from engine.results.summary import write_summary
from engine.run_folder import read_json, write_json
from engine.session import Session


def test_a_run_without_mixes(tmp_path, small_config):
    inputs = check_inputs(small_config(tmp_path / "out"))
    write_json(inputs.out / "classifier", "result.json", {"top1": 0.5, "per_class": {"0": 0.5}})
    recorded = []
    telemetry = SimpleNamespace(collect=lambda: None, events=[], stopped=None)
    nothing = Capacity(nodes=[], grows=False)
    telemetry.record = lambda kind, **values: recorded.append((kind, values))
    session = Session(
        config=inputs.config,
        out=inputs.out,
        data=inputs.data,
        source=inputs.source,
        telemetry=telemetry,
        capacity=nothing,
        ahead=AskAhead(inputs.config.placement, nothing),
        marker=None,
    )
    given = write_summary(session, mixed=False)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored[KEY] == FORMAT_VERSION
    assert stored["plan"] == {"planned": 0, "stored": 0, "rejected": 0, "set_aside": 0}
    assert stored["accuracy"]["top1"] == 0.5
    assert KEY not in stored["accuracy"]
    assert "baseline" not in stored
    assert given == {**read_json(inputs.out, "summary.json"), "report": given["report"]}
    assert given["report"].endswith("report.html")
    assert recorded == [("result", {"train": 0.5, "baseline": None})]
    whole = {"planned": 40, "stored": 0, "rejected": 0, "set_aside": 0}
    assert write_summary(session, mixed=True)["plan"] == {**whole, "missing": 40}
    telemetry.stopped = "usd"
    assert write_summary(session, mixed=True)["plan"] == {**whole, "cut": 40}
