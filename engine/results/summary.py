"""`summary.json`: what a run was, in numbers."""

from __future__ import annotations

import logging
from dataclasses import asdict

from diffmix.versions import versions
from engine.budget.budget import is_measured
from engine.budget.spending import spent_before
from engine.mixer.tries import SetAside
from engine.mixing.store import MixStore
from engine.results.figures import figures
from engine.results.gpu_hours import gpu_hours
from engine.run_folder import leak, read_json, write_json
from engine.session import Session

log = logging.getLogger(__name__)


def write_summary(session: Session, mixed: bool) -> dict:
    """Collect the figures and write `summary.json` and the report. `mixed` is whether the run has
    anything to do with mixes.

    Gives what `summary.json` holds, and `report`, the path of the report's images.
    """
    # Only a finished run needs torch, timm and the charts.
    from engine.results.cards import write_timm_config
    from engine.results.evaluate import with_class_sizes
    from engine.results.report import write_report

    config, out, train_images = session.config, session.out, session.data.train
    session.telemetry.collect()
    source = session.source if mixed else None
    stored, rejected = source.counts(config) if source else (0, 0)
    planned = len(source.plan(config)) if source else 0
    aside = SetAside(source.store.folder).mixes(source.store.stored_chunks()) if source else 0
    if aside:
        log.warning(
            "%d of %d mixes could not be made and were set aside; %s/set-aside says why, and "
            "--run.repair True tries them again.",
            aside,
            planned,
            session.source.store.folder.uri,
        )
    summary = {
        "plan": {"planned": planned, "stored": stored, "rejected": rejected, "set_aside": aside},
        **figures(session.telemetry.events),
        "gpu_hours": gpu_hours(session.telemetry.events),
        "versions": versions(),
    }
    if left := planned - stored - rejected - aside:
        stopped = session.telemetry.stopped
        summary["plan"]["cut" if stopped else "missing"] = left
        if not stopped:
            log.warning("%d of %d mixes are not made yet; diffmix run makes them.", left, planned)
    if is_measured(config):
        summary["spent"] = asdict(spent_before(session.telemetry.events))
    for name, key in (("classifier", "accuracy"), ("baseline", "baseline")):
        if (out / name).exists("model.json"):
            write_timm_config(out / name)
        if (out / name).exists("result.json"):
            result = read_json(out / name, "result.json")
            summary[key] = with_class_sizes(result, train_images, config.evaluate)
    if config.run.oracle and source:
        summary["mixer"]["oracle_share"] = _oracle_share(
            config.run.oracle, source.store, train_images.class_names
        )
    if mixed and (leaked := leak(config, out, session.data)):
        summary["leak"] = leaked
    write_json(out, "summary.json", summary)
    arms = {"train": "accuracy", "baseline": "baseline"}
    tested = {arm: summary.get(key, {}).get("top1") for arm, key in arms.items()}
    session.telemetry.record("result", **tested)
    events = session.telemetry.events
    report = write_report(config, out, session.data, summary, events, source)
    return {**summary, "report": report}  # the file keeps numbers only


def _oracle_share(oracle: str, store: MixStore, class_names: list[str]) -> float:
    """Share of the accepted mixes in which `oracle` sees the target class, 0 to 1."""
    from diffmix.classifier.oracle import oracle_share

    tables = store.tables(["image", "target_label", "accepted"])
    accepted = (table.filter(table["accepted"]) for table in tables)
    return oracle_share(oracle, accepted, class_names)
