"""The mixer: the Ray actor that makes the mixes of a chunk, scores them and stores them."""

from __future__ import annotations

import threading
import time

import pyarrow as pa
import ray
from PIL.Image import Image

from diffmix import images
from diffmix.devices import inference_device
from diffmix.errors import UserError
from diffmix.plan import MixSpec
from engine.mixing.job import MixJob
from engine.mixing.store import SCHEMA, MixStore

_NUMBERS = pa.schema([("chunk", pa.int64())])


class MixActor:
    """Holds one generator on one device for the whole stream. Ray Data's actor pool owns and closes
    it.

    Ray calls it from two threads: one chunk is on the device while the images of the chunk before
    it are encoded and stored.
    """

    def __init__(self, job: MixJob, pass_on: bool):
        self.job, self.pass_on = job, pass_on
        self.store = MixStore(job.store)
        self.device = threading.Lock()
        context = ray.get_runtime_context()
        self.name = f"mixer-{context.get_actor_id()[:12]}"
        self.restarted = context.was_current_actor_reconstructed
        self.startup_error: UserError | None = None
        started = time.time()
        try:
            self.mixer = job.build(job)
            self.scorer = job.gate.load(inference_device()) if job.gate else None
        except UserError as error:
            # Ray drops the exception when an actor dies in `__init__`: the first call raises it.
            self.startup_error = error
        job.reporter.send(
            "mixer_ready",
            actor=self.name,
            node=context.get_node_id(),
            start=started,
            end=time.time(),
        )

    def __call__(self, row: pa.Table) -> pa.Table:
        """Make and store one chunk: a row of `stages.read_chunks` -> the chunk's mixes (columns of
        `store.SCHEMA`), or without `pass_on` its number alone (column `chunk`).
        """
        if self.startup_error is not None:
            raise self.startup_error
        if not len(row) or (self.job.is_limited and self.job.reporter.is_stopped()):
            return (SCHEMA if self.pass_on else _NUMBERS).empty_table()
        chunk, specs, sources = (row[name][0].as_py() for name in ("chunk", "specs", "sources"))
        # After an actor's death Ray repeats its whole task, of which some chunks may be stored.
        if self.restarted and self.store.holds(chunk):
            return self._passed(chunk, self.store.read(chunk).replace_schema_metadata())
        with self.device:
            start = time.time()
            made = self.mixer.mix([MixSpec(**spec) for spec in specs], sources)
            end = time.time()
        mixes = self._table(specs, made)
        self.store.write(chunk, mixes, self.job.gate.scorer if self.job.gate else None)
        self.job.reporter.send(
            "mix", actor=self.name, start=start, end=end, mixes=len(made), chunk=chunk
        )
        return self._passed(chunk, mixes)

    def _table(self, specs: list[dict], made: list[Image]) -> pa.Table:
        """The chunk's mixes as the store keeps them."""
        mix = self.job.config.mix
        scores, accepted = self._judge(made, [MixSpec(**spec) for spec in specs])
        rows = []
        for spec, image, score, accept in zip(specs, made, scores, accepted, strict=True):
            file = images.encode(image, mix.image_format, mix.image_quality)
            rows.append({**spec, "image": file, "score": score, "accepted": accept})
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _judge(
        self, made: list[Image], specs: list[MixSpec]
    ) -> tuple[list[float | None], list[bool]]:
        """Each mix's score, and whether it is accepted. Without a gate there are no scores, and all
        are accepted.
        """
        if self.scorer is None or self.job.gate is None:
            return [None] * len(made), [True] * len(made)
        score = self.scorer.score(made, specs)
        return score.tolist(), self.job.gate.accepts(score).tolist()

    def _passed(self, chunk: int, mixes: pa.Table) -> pa.Table:
        return mixes if self.pass_on else pa.table({"chunk": [chunk]}, schema=_NUMBERS)
