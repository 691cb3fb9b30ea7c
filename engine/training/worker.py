"""What runs on a train worker: the stream of mixes starts, then the classifier's loop.

This file imports nothing heavy. The stream, and with it the mixers, therefore start while torch and
DeepSpeed still load.
"""

from __future__ import annotations

import ray.train

from engine.failures import fitting_in_memory
from engine.mixing.part_check import check_of
from engine.training.arrivals import Arrivals
from engine.training.job import Loop, TrainJob
from engine.training.pool import PoolWriter, pool_folder
from engine.worker_group.growth import Regroup, wait_to_be_replaced
from engine.worker_group.start import begin


def train_loop(settings: dict) -> None:
    """Ray Train runs this on every worker. `settings["job"]` is a `TrainJob`. Where
    `settings["streaming"]` is true, the worker's shard `mix` is the stream of new mixes; without it
    `settings["stored"]` are the chunks that all workers share.
    """
    job: TrainJob = settings["job"]
    begin(job.name, job)
    context = ray.train.get_context()
    need = job.pool_bytes // context.get_world_size()
    with pool_folder(f"{job.classifier} {job.name}", context.get_world_rank(), need) as folder:
        pool = PoolWriter(folder)
        read = check_of(job.config, job.train_path, job.store) if job.store else None
        arrivals = Arrivals(job.store, pool, settings["streaming"], settings["stored"], read)
        advice = "lower --train.batch_size, add train workers or raise --train.zero_stage"
        with fitting_in_memory(f"--train.batch_size {job.config.train.batch_size}", advice):
            try:
                job.build(job, pool, arrivals).run()
            except Regroup:
                wait_to_be_replaced()


def build_loop(job: TrainJob, pool: PoolWriter, arrivals: Arrivals) -> Loop:
    """The usual `TrainJob.build`: the classifier in DeepSpeed."""
    from engine.training.classifier_loop import ClassifierLoop

    return ClassifierLoop(job, pool, arrivals)
