"""The mixer: the Ray actor that makes the mixes of a chunk, scores them and stores them."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import asdict

import pyarrow as pa
import ray
from PIL.Image import Image

from diffmix import images
from diffmix.devices import inference_device
from diffmix.errors import UserError
from diffmix.plan import MixSpec
from engine.mixer.start import start
from engine.mixer.tries import Deadline, SetAside, check_number, short
from engine.mixing.job import MixJob, Preparing
from engine.mixing.store import SCHEMA, MixStore
from engine.telemetry import now

_NUMBERS = pa.schema([("chunk", pa.int64())])


class GivenUpError(RuntimeError):
    """Nobody waits for a chunk here any more."""


def _check_wanted() -> None:
    """Raise `GivenUpError` where Ray has marked this task: its stream was given up, or the task was
    handed to another mixer because this node is going away. Ray does not end it itself.
    """
    if ray.get_runtime_context().is_canceled():
        raise GivenUpError("This stream of mixes was given up, or goes on with other mixers.")


class MixActor:
    """Holds one generator on one device for the whole stream. Ray Data's actor pool owns and closes
    it.

    Ray calls it from two threads: one chunk is on the device while the images of the chunk before
    it are encoded and stored.
    """

    def __init__(self, job: MixJob, pass_on: bool):
        self.job, self.pass_on = job, pass_on
        self.store = MixStore(job.store)
        self.aside = SetAside(self.store.folder)
        self.deadline = Deadline(job.config.run.chunk_deadline)
        self.device = threading.Lock()
        context = ray.get_runtime_context()
        self.careful = context.was_current_actor_reconstructed
        self.name = f"mixer-{context.get_actor_id()[:12]}"
        self.startup_error: UserError | None = None
        self.said: dict | None = None
        began = now()
        try:
            if job.marker is not None:
                job.marker.check()
            self.mixer = start(lambda: job.build(job), job.reporter)
            gate = job.gate
            self.scorer = (
                start(lambda: gate.load(inference_device()), job.reporter) if gate else None
            )
        except UserError as error:
            # Ray drops the exception when an actor dies in `__init__`: the first call raises it.
            self.startup_error = error
        job.reporter.send(
            "mixer_ready",
            actor=self.name,
            node=context.get_node_id(),
            pid=os.getpid(),
            start=began,
            end=now(),
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
        _check_wanted()
        # A task that goes to another mixer is repeated as a whole. Some chunks may be stored, and
        # the mixer that had it may have stored the chunk that it had begun.
        if self.store.holds(chunk):
            return self._passed(chunk, self.store.read(chunk).replace_schema_metadata())
        # A dead mixer's tasks go to others, and it may be one of their chunks that kills mixers.
        self.careful = self.careful or self.job.reporter.lost_mixers() > 0
        if self.careful and self.aside.holds(chunk):
            return self._passed(chunk, SCHEMA.empty_table())
        made = self._tried(chunk, [MixSpec(**spec) for spec in specs], sources)
        if made is None:
            return self._passed(chunk, SCHEMA.empty_table())
        mixes, unlike, start, end = made
        scorer = self.job.gate.scorer if self.job.gate else None
        self.store.write(chunk, mixes, scorer, unlike)
        self.job.reporter.send(
            "mix",
            actor=self.name,
            start=start,
            end=end,
            mixes=len(mixes),
            chunk=chunk,
            **self._graphs(),
        )
        return self._passed(chunk, mixes)

    def _graphs(self) -> dict[str, int]:
        """How many graphs torch.compile has made here; nothing where it is off."""
        graphs = getattr(self.mixer, "graphs", 0)
        return {"graphs": graphs} if graphs else {}

    def _unlike(self) -> dict | None:
        """How this mixer makes mixes, where that is not how the store says; it is said once."""
        usual, here = self.job.made_with, getattr(self.mixer, "made_with", self.job.made_with)
        if here == usual or not usual:
            return None
        if here != self.said:
            self.said = here
            text = ", ".join(
                f"{name} {value}" for name, value in here.items() if usual.get(name) != value
            )
            self.job.reporter.send(
                "note",
                text=f"{self.name} makes mixes with {text}, unlike the store's first ones; "
                "their last bits may differ, and its parts say so",
            )
        return here

    def _tried(
        self, chunk: int, specs: list[MixSpec], sources: list[bytes | None]
    ) -> tuple[pa.Table, dict | None, float, float] | None:
        """What `_made` gives. None: it failed `run.chunk_tries` times and was set aside.

        After the first death of a mixer, all of them note what they begin: it may be this chunk
        that kills them.
        """
        run = self.job.config.run
        while True:
            whys = self.aside.tries(chunk) if self.careful else []
            note = self.aside.beginning(chunk) if self.careful else ""
            if len(whys) < run.chunk_tries:
                try:
                    return self._made(chunk, specs, sources)
                except (UserError, GivenUpError):
                    raise
                except Exception as error:
                    self.aside.failed(chunk, short(error))
                    self.job.reporter.send(
                        "mix_failed", actor=self.name, chunk=chunk, reason=short(error)
                    )
                    if "CUDA error" in str(error):
                        # The device is unusable in this process for good: a new one goes on.
                        os.kill(os.getpid(), signal.SIGKILL)
                    whys = self.aside.tries(chunk)
                finally:
                    if note:
                        self.aside.withdraw(note)
            if len(whys) >= run.chunk_tries:
                self.aside.put(chunk, len(specs), whys[-1])
                self.job.reporter.send(
                    "set_aside", chunk=chunk, mixes=len(specs), reason=whys[-1], tries=len(whys)
                )
                check_number(self.store.folder, self.job.most_set_aside)
                return None

    def _made(
        self, chunk: int, specs: list[MixSpec], sources: list[bytes | None]
    ) -> tuple[pa.Table, dict | None, float, float]:
        """One try: the chunk's mixes as the store keeps them, what `_unlike` gives, and from when
        to when the device was at work on them.
        """
        # Files are decoded while the chunk before this one is still on the device.
        if isinstance(self.mixer, Preparing):
            sources = self.mixer.prepare(specs, sources)
        with self.device, self.deadline.watching(lambda why: self._hangs(chunk, why)):
            _check_wanted()
            start = now()
            made = self.mixer.mix(specs, sources)
            end = now()
            unlike = self._unlike()
        self.deadline.took(end - start)
        return self._table(specs, made), unlike, start, end

    def _hangs(self, chunk: int, why: str) -> None:
        self.aside.failed(chunk, why)
        self.job.reporter.send("mix_failed", actor=self.name, chunk=chunk, reason=why)

    def _table(self, specs: list[MixSpec], made: list[Image]) -> pa.Table:
        """The chunk's mixes as the store keeps them."""
        mix = self.job.config.mix
        scores, accepted = self._judge(made, specs)
        rows = []
        for spec, image, score, accept in zip(specs, made, scores, accepted, strict=True):
            file = images.encode(image, mix.image_format, mix.image_quality)
            rows.append({**asdict(spec), "image": file, "score": score, "accepted": accept})
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
