"""The stream of mixes on Ray Data: chunk numbers go in, stored mixes come out.

One row that goes in is one block and one task. A task holds a few chunks, which a mixer makes and
stores one by one.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import ray
import ray.data
from jaxtyping import Int

from diffmix import strategies
from diffmix.config import PlacementConfig
from diffmix.datasets.real import RealSet, open_rows
from diffmix.files.set_index import SetIndex
from diffmix.plan import MixPlan, make_plan
from diffmix.strategies.mix_spec import SPEC_COLUMNS
from engine.mixer.mixer_actor import MixActor
from engine.mixer.start import GoodNodes
from engine.mixing.job import MixJob
from engine.mixing.store import SCHEMA
from engine.nodes.hand_over import hand_over_tasks
from engine.placement.cluster import MIX_LABEL
from engine.placement.pool import MixerPool, mixer_pool
from engine.placement.ray_internals import silence_raised_errors

MAX_CHUNKS = 16
"""The most chunks in one task. It bounds how many mixes training waits for at once
(docs/measurements/scale.md).
"""
TASKS_PER_MIXER = 4
"""The chunks that are left fill at least so many tasks for each mixer: mixers then finish at about
the same time.
"""

TASK_BYTES = 256 * 2**20
"""The most bytes of source images in one task, unless a single chunk has more."""
_BLOCK_BYTES = TASK_BYTES // 4  # a reader passes so many on at once; Ray gathers twice as many

_SPEC = pa.struct([SCHEMA.field(name) for name in SPEC_COLUMNS])
_CHUNK = pa.schema(
    [("chunk", pa.int64()), ("specs", pa.list_(_SPEC)), ("sources", pa.list_(pa.binary()))]
)


def stream(
    job: MixJob, chunks: Int[np.ndarray, " chunks"], pass_on: bool = True
) -> ray.data.Dataset:
    """A lazy data set that makes the given chunks, stores each, and passes on its mixes (columns of
    `store.SCHEMA`).

    Without `pass_on` the images stay in the store: one row for each chunk comes out, its number in
    the column `chunk`. Blocks come in the order in which mixers finish. Consume it once.
    """
    placement = job.config.placement
    pool = job.pool or mixer_pool(placement)
    actors = ray.data.ActorPoolStrategy(
        min_size=pool.least,
        max_size=pool.most,
        initial_size=pool.first,
        # Three are of use: one chunk on the device, one that is being stored, one that has arrived.
        # The fourth lets the pool grow: Ray asks for 1.75 tasks for each call that can run.
        max_tasks_in_flight_per_actor=4,
        max_concurrent_calls_per_actor=2,
        enable_true_multi_threading=True,
    )
    configure_ray_data(placement, pool)
    hand_over_tasks(ray.data.DataContext.get_current(), job.reporter)
    groups = group_chunks(chunks, placement.mixers[-1], _chunk_bytes(job))
    numbers = ray.put(groups)
    whole = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
    return (
        ray.data.range(len(groups), override_num_blocks=max(1, len(groups)))
        # With the resources of Ray's own first stage, one CPU, the two become one task.
        .map_batches(read_chunks, fn_kwargs={"job": job, "groups": numbers}, **whole)
        .map_batches(
            MixActor,
            fn_constructor_kwargs={"job": job, "pass_on": pass_on},
            compute=actors,
            num_gpus=placement.gpus_per_mixer,
            num_cpus=placement.cpus_per_mixer,
            ray_remote_args_fn=GoodNodes(job.reporter, MIX_LABEL if placement.separate else {}),
            **{**whole, "batch_size": 1},
        )
    )


@dataclass(frozen=True)
class Groups:
    """The chunks of each task, in two arrays: tasks read them from Ray's object store in place."""

    chunks: Int[np.ndarray, " chunks"]
    starts: Int[np.ndarray, " tasks"]
    """Where in `chunks` each task begins."""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, task: int) -> Int[np.ndarray, " group"]:
        stop = self.starts[task + 1] if task + 1 < len(self.starts) else len(self.chunks)
        return self.chunks[self.starts[task] : stop]


def group_chunks(
    chunks: Int[np.ndarray, " chunks"], mixers: int, chunk_bytes: float = 0.0
) -> Groups:
    """The chunks of each task, in order. `chunk_bytes` is the size of a chunk's sources.

    Tasks start with one chunk so that training gets mixes early, grow to at most `MAX_CHUNKS` and
    `TASK_BYTES`, and shrink to one so that mixers finish together. They grow at all because Ray's
    driver spends milliseconds on each task, whatever its size: with one chunk in each it cannot
    keep up with many mixers. A task holds as many chunks as each mixer has had before it; fewer
    than `MAX_CHUNKS` mixers count as `MAX_CHUNKS`, because training waits for whole tasks.
    """
    tasks = TASKS_PER_MIXER * mixers
    largest = min(MAX_CHUNKS, len(chunks) // (2 * tasks))
    if chunk_bytes:
        largest = min(largest, int(TASK_BYTES // chunk_bytes))
    starts, start = [], 0
    while start < len(chunks):
        had = start // max(mixers, MAX_CHUNKS)
        fair = (len(chunks) - start) // tasks
        starts.append(start)
        start += max(1, min(largest, had, fair))
    return Groups(chunks, np.array(starts, dtype=np.int64))


def _chunk_bytes(job: MixJob) -> float:
    """Mean size of the source images of a whole chunk; 0 where mixes start from noise."""
    batch = job.config.mix.batch
    if strategies.find(job.config.mix.strategy).from_noise or not isinstance(batch, int):
        return 0.0
    sizes = _real(job.real_path).sizes
    return batch * float(sizes.mean()) if len(sizes) else 0.0


def read_chunks(rows: pa.Table, job: MixJob, groups: object) -> Iterator[pa.Table]:
    """Task numbers (column `id`) -> one row for each of their chunks: `chunk`, its `specs`, and the
    files of its `sources`. `groups` is what `group_chunks` gives, or a reference to it.

    A chunk is one row until it is mixed: Ray Data would fill up a short chunk's batch with rows of
    the next one. Rows come in tables of a few megabytes, so that a task with larger images than
    most does not hold them all.
    """
    if job.is_limited and job.reporter.is_stopped():
        yield _CHUNK.empty_table()
        return
    numbers = ray.get(groups) if isinstance(groups, ray.ObjectRef) else groups
    plan, real = _plan(job.real_path, pickle.dumps(job.config), job.sizes), _real(job.real_path)
    found: list[dict] = []
    size = 0
    for task in rows["id"].to_pylist():
        for chunk in numbers[task].tolist():  # type: ignore[index]
            row = _read(plan, real, chunk)
            found.append(row)
            size += sum(len(source or b"") for source in row["sources"])
            if size >= _BLOCK_BYTES:
                yield pa.Table.from_pylist(found, schema=_CHUNK)
                found, size = [], 0
    if found:
        yield pa.Table.from_pylist(found, schema=_CHUNK)


def _read(plan: MixPlan, real: RealSet | SetIndex, chunk: int) -> dict:
    """A chunk's row. An image that several mixes start from is read once."""
    ids = plan.chunk_ids(chunk)
    source = plan.columns(ids)["source"]
    wanted = sorted({row for row in source.tolist() if row >= 0})
    files = dict(zip(wanted, real.images(wanted), strict=True))
    specs = [asdict(spec) for spec in plan.specs(ids)]
    return {"chunk": chunk, "specs": specs, "sources": [files.get(row) for row in source.tolist()]}


@lru_cache(maxsize=4)
def _real(path: str) -> RealSet | SetIndex:
    return open_rows(path)


@lru_cache(maxsize=4)
def _plan(real_path: str, config: bytes, sizes: tuple[int, ...]) -> MixPlan:
    """The plan, built once in each worker process. `config` is pickled, so that it can be a key."""
    return make_plan(pickle.loads(config), _real(real_path), sizes=sizes)


def configure_ray_data(placement: PlacementConfig, pool: MixerPool | None = None) -> None:
    """Set what Ray Data does in this process, for the data sets that start next."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options = execution_options(placement, pool)
    # By default one crash at an actor's start ends the job, which a spot node's death must not do.
    # Each of these starts has been tried several times on its node (`MixActor`).
    context.max_consecutive_actor_init_deaths = 3
    context.raise_original_map_exception = True  # else Ray Data wraps it, and its type is lost
    # By default a stream without progress for 30 minutes ends the job: one that waits for spot
    # nodes, or whose only mixer is slow. `engine.nodes.waiting` says what is waited for.
    context.execution_no_progress_timeout_s = -1
    # A mixer that has just started has no work yet. By default Ray ends it for that.
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1
    silence_raised_errors()


def execution_options(
    placement: PlacementConfig, pool: MixerPool | None = None
) -> ray.data.ExecutionOptions:
    """Where the stream runs, and the most that it asks for. The label is the whole stream's and not
    a stage's, because Ray Data counts only the resources of the nodes that carry the stream's
    label.
    """
    limits = None
    if pool is not None and pool.gpus is not None:
        limits = ray.data.ExecutionResources(gpu=pool.gpus, cpu=pool.cpus)
    return ray.data.ExecutionOptions(
        label_selector=MIX_LABEL if placement.separate else None, resource_limits=limits
    )
