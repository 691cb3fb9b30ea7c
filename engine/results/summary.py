"""`summary.json`: what a run was, in numbers."""

from __future__ import annotations

import json

from diffmix.versions import versions
from engine.mixing.mix_source import plan_of
from engine.mixing.store import MixStore
from engine.session import Session
from engine.telemetry import figures


def write_summary(session: Session, store: MixStore | None, concept: str | None) -> dict:
    """Collect the figures, write `summary.json` and give its content."""
    session.telemetry.collect()
    stored, rejected = store.counts() if store else (0, 0)
    planned = len(plan_of(session.config, session.data.train, store)) if store else 0
    summary = {
        "plan": {"planned": planned, "stored": stored, "rejected": rejected},
        **figures(session.telemetry.events),
        "versions": versions(),
    }
    from engine.results.evaluate import (
        with_class_sizes,  # torch and timm are needed only here, at the end
    )

    for name, key in (("classifier", "accuracy"), ("baseline", "baseline")):
        folder = session.out / name
        if folder.exists("result.json"):
            result = json.loads(folder.read("result.json"))
            summary[key] = with_class_sizes(result, session.data.train, session.config.evaluate)
    if session.config.run.oracle and store:
        from diffmix.classifier.oracle import oracle_share

        accepted = (
            table.filter(table["accepted"])
            for table in store.tables(["image", "target_label", "accepted"])
        )
        summary["mixer"]["oracle_share"] = oracle_share(
            session.config.run.oracle, accepted, session.data.train.class_names
        )
    session.out.write("summary.json", json.dumps(summary, indent=2).encode())
    from engine.results.report import (
        write_report,  # plots and pictures are needed only here, at the end
    )

    report = write_report(
        session.config, session.out, session.data, summary, session.telemetry.events, store
    )
    return {**summary, "report": report}  # the file keeps numbers only
