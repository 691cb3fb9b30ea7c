"""Ray's own metrics: Prometheus reads them from every node's agent, with the prefix `ray_`.

`clusters/grafana/diffmix.json` is a dashboard of them, to be imported beside Ray's own.
"""

from __future__ import annotations

from diffmix.config import Config
from diffmix.storage import Folder
from engine.display.state import RunState

METRICS = {
    "diffmix_mixes_made": "mixes made, those of earlier attempts included",
    "diffmix_mixes_planned": "mixes that the plan has",
    "diffmix_mixes_per_second": "mixes per second of all mixers, lately",
    "diffmix_mixer_busy_share": "share of the mixers' time in which they mixed, since their start",
    "diffmix_mixers_ready": "mixers that have loaded their model",
    "diffmix_mixes_available": "mixes that the train workers can draw from",
    "diffmix_data_wait_share": "share of the last epoch in which train workers waited for data",
    "diffmix_epoch": "epochs done",
    "diffmix_train_loss": "training loss of the last epoch",
    "diffmix_validation_accuracy": "accuracy on the images that pick the epoch, 0 to 1",
    "diffmix_waiting": "1 while the run waits for nodes or workers, else 0",
    "diffmix_gpus_used": "GPUs of the cluster in use",
    "diffmix_gpus": "GPUs of the cluster",
}
"""Names, and what they mean. Each has the tag `run`, the run folder."""


class RayMetrics:
    """A listener that keeps a gauge for each of `METRICS`. Owned by the run's session."""

    def __init__(self, config: Config, out: Folder):
        from ray.util.metrics import Gauge

        self._state = RunState()
        self._gauges = {}
        for name, text in METRICS.items():
            self._gauges[name] = Gauge(name, description=text, tag_keys=("run",))
            self._gauges[name].set_default_tags({"run": out.uri})
        self._busy: dict[str, float] = {}
        self._held: dict[str, tuple[float, float]] = {}

    def on_events(self, events: list[dict]) -> None:
        self._state.add(events)
        for event in events:
            if event["event"] in ("mix", "mixer_ready"):
                first, last = self._held.get(event["actor"], (event["start"], event["end"]))
                self._held[event["actor"]] = (first, max(last, event["end"]))
            if event["event"] == "mix":
                busy = self._busy.get(event["actor"], 0.0)
                self._busy[event["actor"]] = busy + event["end"] - event["start"]
        for name, value in self._values().items():
            if value is not None:
                self._gauges[name].set(float(value))

    def close(self) -> None:
        """Ray drops the gauges of a process that ends."""

    def _values(self) -> dict[str, float | None]:
        state = self._state
        mixing, training = state.phases["mix"], state.phases["train"]
        held = sum(last - first for first, last in self._held.values())
        mixes = mixing.begun is not None and mixing.ended is None
        return {
            "diffmix_mixes_made": mixing.done,
            "diffmix_mixes_planned": mixing.of,
            "diffmix_mixes_per_second": mixing.rate() if mixes else 0.0,
            "diffmix_mixer_busy_share": sum(self._busy.values()) / held if held else None,
            "diffmix_mixers_ready": len(state.mixers) if mixes else 0,
            "diffmix_mixes_available": sum(training.pool.values()),
            "diffmix_data_wait_share": state.data_wait("train"),
            "diffmix_epoch": training.done,
            "diffmix_train_loss": training.loss,
            "diffmix_validation_accuracy": training.accuracy,
            "diffmix_waiting": float(bool(state.waiting)),
            "diffmix_gpus_used": state.gpus[0] if state.gpus else None,
            "diffmix_gpus": state.gpus[1] if state.gpus else None,
        }
