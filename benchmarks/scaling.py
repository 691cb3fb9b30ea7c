"""How far one stream scales: 1 to 64 mixers with a simulated cost, and how many mixes a second everything around them carries.

Efficiency is measured from the moment the last mixer has begun its first chunk to the end of the stream's last chunk, its
tail included: chunks made in that time x the chunk's cost / (mixers x time). 1 is a mixer that never waits.

The control path is plan, read, store, split and pool with a mixer that costs nothing: mixes / (first chunk begun ->
last mix in the train worker's pool). The constants after it are those of docs/scale.md.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import ray

from benchmarks import constants, record
from benchmarks.simulated import SleepingMixer, TakeAll, mix_job, session, start_ray
from diffmix.config import Config
from engine import phases
from engine.stages import MOST_CHUNKS
from engine.telemetry import spans

BATCH = 16
IMAGE_BYTES = 50_000
CONTROL_MIXERS = 2


def config(mixers: int, mixes: int) -> Config:
    made = Config()
    made.mix = replace(made.mix, strategy="real-mix", count=mixes, batch=BATCH)
    made.placement = replace(made.placement, mixers=(mixers,), cpus_per_mixer=0.5)
    return made


def efficiency(mixers: int, chunk_seconds: float, seconds: float) -> float:
    """Of `mixers` that work for about `seconds` each."""
    chunks = int(mixers * seconds / chunk_seconds)
    with session(config(mixers, chunks * BATCH), IMAGE_BYTES) as opened:
        phases.synthesize(opened, mix_job(opened, SleepingMixer(chunk_seconds, IMAGE_BYTES)))
        opened.telemetry.collect()
        return measured_efficiency(opened.telemetry.events, mixers, chunk_seconds)


def measured_efficiency(events: list[dict], mixers: int, chunk_seconds: float) -> float:
    """As the module defines it, from the events of a run. `ValueError` where not all mixers worked."""
    first: dict[str, float] = {}
    for event in events:
        if event["event"] == "mix":
            first[event["actor"]] = min(event["start"], first.get(event["actor"], event["start"]))
    if len(first) != mixers:
        raise ValueError(f"{len(first)} of {mixers} mixers worked")
    begin = max(first.values())
    worked = spans(events, "mix")
    end = max(stop for _, stop in worked)
    # A chunk that straddles the beginning counts with its part after it, at the cost that it was meant to have.
    inside = sum(min(1.0, max(0.0, (stop - begin) / (stop - start))) for start, stop in worked)
    return inside * chunk_seconds / (mixers * (end - begin))


def control_path(mixes: int) -> float:
    """Mixes per second through everything but a mixer."""
    with session(config(CONTROL_MIXERS, mixes), IMAGE_BYTES) as opened:
        phases.train(opened, mix_job(opened, SleepingMixer(0.0, IMAGE_BYTES)), streaming=True, build=TakeAll())
        opened.telemetry.collect()
        events = opened.telemetry.events
        begin = min(start for start, _ in spans(events, "mix"))
        return mixes / (max(event["end"] for event in events if event["event"] == "arrived") - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--mixers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument(
        "--chunk-seconds", type=float, default=0.6, help="cost of a chunk of 16: 0.6 is SD 1.5 on a GPU that makes 26 a second"
    )
    parser.add_argument("--seconds", type=float, default=45.0, help="work of each mixer")
    parser.add_argument("--mixes", type=int, default=30_000, help="mixes through the control path")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    figures: dict[str, float] = {}
    rows: list[list[object]] = []
    for mixers in chosen.mixers:
        start_ray(mixers, mixers + 4)
        found = [efficiency(mixers, chosen.chunk_seconds, chosen.seconds) for _ in range(chosen.repeats)]
        ray.shutdown()
        figures[f"efficiency_{mixers}"] = statistics.median(found)
        rows.append([f"{mixers} mixers: efficiency", figures[f"efficiency_{mixers}"], f"{min(found):.3f} to {max(found):.3f}"])
    if chosen.mixes:
        start_ray(CONTROL_MIXERS + 1, 6)
        measures = {
            "control_path_mixes_per_second": lambda: control_path(chosen.mixes),
            "chunks_per_second_one_a_task": lambda: constants.chunks_per_second(600, 1),
            "chunks_per_second": lambda: constants.chunks_per_second(6000, MOST_CHUNKS),
            "part_ms": lambda: 1000 * constants.part_seconds(BATCH, IMAGE_BYTES),
            "listing_ms_per_1000_parts": lambda: 1e6 * constants.listing_seconds(),
            "counting_ms_per_part": lambda: 1000 * constants.counting_seconds(BATCH),
            "events_per_second": constants.events_per_second,
        }
        for name, measure in measures.items():
            found = [measure() for _ in range(chosen.repeats)]
            figures[name] = statistics.median(found)
            rows.append([name.replace("_", " "), figures[name], f"{min(found):.3g} to {max(found):.3g}"])
        ray.shutdown()
    print(__doc__)
    record.show(f"chunks of {BATCH} mixes of {IMAGE_BYTES // 1000} KB, {chosen.chunk_seconds} s each", ["what", "median", "range"], rows)
    record.write(chosen.json, figures)


if __name__ == "__main__":
    main()
