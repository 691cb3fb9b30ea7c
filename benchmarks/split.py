"""The split that `placement.auto` chooses: what was predicted, and what then happened, beside other
ways to split 8 GPUs.

Costs are simulated as in `benchmarks/overlap.py`. The engine's calibration times the stand-ins on
the cluster before it predicts, as it would time real mixers and train steps. Wall times count from
the begin of the first chunk.
"""

from __future__ import annotations

import statistics

from benchmarks import record
from benchmarks.overlap import (
    CHUNK_SECONDS,
    IMAGE_BYTES,
    NODES,
    RATIOS,
    REAL,
    Costs,
    config,
    costs,
    eight_nodes,
    run,
)
from diffmix.config import Config, replace
from engine.placement import calibrate
from engine.placement.capacity import live
from engine.placement.split import GpuShare, Rates, choose, predict
from engine.testing import SleepingMixer, simulated_mix_job, temporary_session


def calibrated(job_costs: Costs, made: Config) -> Rates:
    """The rates that the engine's own calibration measures on the cluster."""
    with temporary_session(made, IMAGE_BYTES, REAL) as session:
        job = simulated_mix_job(session, SleepingMixer(CHUNK_SECONDS, IMAGE_BYTES))
        return calibrate.calibrate(session, job, job_costs.time_steps)


def others(made: Config, rates: Rates, planned: int, best: GpuShare) -> list[GpuShare]:
    """Other ways to use all GPUs: one with fewer train workers, and one with more."""
    all_ways = [
        predict(made, rates, planned, NODES - n, n) for n in rates.train_seconds if n < NODES
    ]
    fewer = [way for way in all_ways if way.trainers < best.trainers]
    more = [way for way in all_ways if way.trainers > best.trainers]
    return fewer[-1:] + more[:1]


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="seconds that both phases together would keep all GPUs busy",
    )
    parser.add_argument(
        "--ratios",
        nargs="+",
        choices=list(RATIOS),
        default=list(RATIOS),
        help="cost of mixing : cost of training",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each way, of which the median counts"
    )
    chosen = parser.parse_args()
    figures: dict[str, float] = {}
    rows: list[list[object]] = []
    with eight_nodes():
        for name in chosen.ratios:
            job_costs = costs(RATIOS[name], chosen.seconds)
            made = config(1, 1, job_costs.chunks)
            made = replace(made, **{"placement.auto": True})
            rates = calibrated(job_costs, made)
            best = choose(made, rates, job_costs.mixes, live().total("GPU"))
            walls = {}
            for way in [best, *others(made, rates, job_costs.mixes, best)]:
                walls[way] = statistics.median(
                    run(job_costs, way.mixers, way.trainers, "overlapped")["wall"]
                    for _ in range(chosen.repeats)
                )
                rows.append(
                    [
                        name.replace("_", ":"),
                        f"{way.mixers} + {way.trainers}" + (" (chosen)" if way is best else ""),
                        way.generate,
                        way.train,
                        way.wall,
                        walls[way],
                        walls[way] / way.wall,
                    ]
                )
            figures[f"actual_over_predicted_{name}"] = walls[best] / best.wall
            figures[f"chosen_over_best_tried_{name}"] = walls[best] / min(walls.values())
    print(__doc__)
    columns = [
        "G:T",
        "mixers + trainers",
        "mixing s",
        "training s",
        "predicted wall s",
        "actual wall s",
        "actual / predicted",
    ]
    record.show(f"{NODES} GPUs", columns, rows)
    record.write(chosen.json, figures)


if __name__ == "__main__":
    main()
