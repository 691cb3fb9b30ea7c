"""MLflow: `pip install mlflow`; `MLFLOW_TRACKING_URI` says where it keeps runs."""

from __future__ import annotations

import time

from diffmix import images
from diffmix.config import Config
from diffmix.storage import Folder
from engine.trackers.figures import Figures, mixes, options
from engine.trackers.optional import required

_MOST_CHARACTERS = 500  # of a parameter, in MLflow's oldest backend


class MLflow:
    """A listener that makes one MLflow run of a run folder: parameters, metrics, and mixes as
    artifacts. Owned by the run's session.
    """

    def __init__(self, config: Config, out: Folder):
        self._mlflow = required("mlflow", "mlflow")
        self._out, self._figures = out, Figures()
        self._client = self._mlflow.MlflowClient()
        name = "diffmix"
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        # Not `mlflow.start_run`: a program may have a run of its own.
        run = self._client.create_run(experiment, run_name=out.uri, tags={"run_folder": out.uri})
        self._run = run.info.run_id
        entities = self._mlflow.entities
        params = options(config).items()
        self._client.log_batch(
            self._run,
            params=[entities.Param(key, str(value)[:_MOST_CHARACTERS]) for key, value in params],
        )

    def on_events(self, events: list[dict]) -> None:
        now = int(1000 * time.time())
        metrics = []
        for name, value, step in self._figures.of(events):
            metrics.append(self._mlflow.entities.Metric(name, float(value), now, step))
        for start in range(0, len(metrics), 1000):  # MLflow takes no more at once
            self._client.log_batch(self._run, metrics=metrics[start : start + 1000])

    def close(self) -> None:
        for number, (_, file) in enumerate(mixes(self._out)):
            name = f"mixes/{number:02d}.png"
            self._client.log_image(self._run, images.decode(file), name)
        self._client.set_terminated(self._run)
