"""How far one stream scales: 1 to 64 mixers with a simulated cost, and the mixes a second that the
engine around them carries.

Efficiency is chunks x a chunk's cost / (mixers x time). Time counts from the moment the last mixer
is ready (they begin together) to the end of the stream's last chunk, its tail included. 1 means
that no mixer ever waits.

The control path is plan, read, store, split and pool, with a mixer that costs nothing. Its rate
counts from the moment when a quarter of the chunks have begun, because workers still start until
then, to the last mix in the train worker's pool. The constants after it are those of
docs/measurements/scale.md.
"""

from __future__ import annotations

import statistics
import sys

import ray

from benchmarks import constants, record
from diffmix.config import Config, MixConfig, PlacementConfig
from engine import phases
from engine.mixing.stages import MAX_CHUNKS
from engine.results.figures import spans
from engine.testing import (
    SleepingMixer,
    StreamOnly,
    simulated_mix_job,
    start_ray,
    temporary_session,
)

BATCH = 16
SCALED_IMAGE_BYTES = 5_000
"""Of the scaled stream. Small: on a cluster each node moves its own mixers' bytes, and here two
cores move those of 64.
"""
IMAGE_BYTES = 50_000
"""Of the control path."""
CONTROL_MIXERS = 2


def config(mixers: int, mixes: int) -> Config:
    return Config(
        mix=MixConfig(strategy="real-mix", count=mixes, batch=BATCH),
        placement=PlacementConfig(mixers=(mixers,), cpus_per_mixer=0.5),
    )


def efficiency(mixers: int, chunk_seconds: float, seconds: float) -> float:
    """The efficiency of `mixers` that work for about `seconds` each."""
    chunks = int(mixers * seconds / chunk_seconds)
    with temporary_session(config(mixers, chunks * BATCH), SCALED_IMAGE_BYTES) as session:
        mixer = SleepingMixer(chunk_seconds, SCALED_IMAGE_BYTES, together=mixers)
        phases.make_mixes(session, simulated_mix_job(session, mixer))
        session.telemetry.collect()
        return measured_efficiency(session.telemetry.events, mixers, chunk_seconds)


def measured_efficiency(events: list[dict], mixers: int, chunk_seconds: float) -> float:
    """The efficiency, from the events of a run. `ValueError` where not all mixers worked."""
    worked = spans(events, "mix")
    actors = {event["actor"] for event in events if event["event"] == "mix"}
    if len(actors) != mixers:
        raise ValueError(f"{len(actors)} of {mixers} mixers worked")
    begin = max(end for _, end in spans(events, "mixer_ready"))
    return len(worked) * chunk_seconds / (mixers * (max(end for _, end in worked) - begin))


def control_path(mixes: int) -> float:
    """Mixes per second through everything but a mixer."""
    with temporary_session(config(CONTROL_MIXERS, mixes), IMAGE_BYTES) as session:
        phases.train_classifier(
            session,
            simulated_mix_job(session, SleepingMixer(0.0, IMAGE_BYTES)),
            streaming=True,
            build=StreamOnly.build,
        )
        session.telemetry.collect()
        events = session.telemetry.events
        arrived = max(event["end"] for event in events if event["event"] == "arrived")
        return BATCH * constants.steady_rate(spans(events, "mix"), arrived)


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--mixers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument(
        "--chunk-seconds",
        type=float,
        default=0.6,
        help="cost of a chunk of 16 mixes; 0.6 is that of a GPU that makes 26 a second",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="that each mixer works")
    parser.add_argument("--mixes", type=int, default=30_000, help="mixes through the control path")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    figures: dict[str, float] = {}
    rows: list[list[object]] = []
    for mixers in chosen.mixers:
        start_ray(mixers, mixers // 2 + 4)
        found = []
        for _ in range(chosen.repeats):
            found.append(efficiency(mixers, chosen.chunk_seconds, chosen.seconds))
        ray.shutdown()
        median = statistics.median(found)
        figures[f"efficiency_{mixers}"] = median
        print(f"{mixers} mixers: {found}", file=sys.stderr, flush=True)
        spread = f"{min(found):.3f} to {max(found):.3f}"
        rows.append([f"{mixers} mixers: efficiency", median, spread])
    if chosen.mixes:
        start_ray(CONTROL_MIXERS + 1, 6)
        measures = {
            "control_path_mixes_per_second": lambda: control_path(chosen.mixes),
            "chunks_per_second_one_a_task": lambda: constants.chunks_per_second(800, 1),
            "chunks_per_second": lambda: constants.chunks_per_second(8000, MAX_CHUNKS),
            "part_ms": lambda: 1000 * constants.part_seconds(BATCH, IMAGE_BYTES),
            "listing_ms_per_1000_parts": lambda: 1e6 * constants.listing_seconds(),
            "counting_ms_per_part": lambda: 1000 * constants.counting_seconds(BATCH),
            "events_per_second": constants.events_per_second,
        }
        for name, measure in measures.items():
            found = [measure() for _ in range(chosen.repeats)]
            figures[name] = statistics.median(found)
            print(f"{name}: {found}", file=sys.stderr, flush=True)
            rows.append(
                [name.replace("_", " "), figures[name], f"{min(found):.3g} to {max(found):.3g}"]
            )
        ray.shutdown()
    print(__doc__)
    title = (
        f"chunks of {BATCH} mixes; scaled: {SCALED_IMAGE_BYTES // 1000} KB a mix, "
        f"{chosen.chunk_seconds} s a chunk; control path: {IMAGE_BYTES // 1000} KB"
    )
    record.show(title, ["what", "median", "range"], rows)
    record.write(chosen.json, figures)


if __name__ == "__main__":
    main()
