"""The classifier's loop on one Ray Train worker: DeepSpeed over real images and a growing pool of
mixes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from diffmix.classifier import metrics
from diffmix.classifier.batch_mix import BatchMix
from diffmix.classifier.cmo import PasteSampler
from diffmix.classifier.head import train_mode, unit_rows
from diffmix.classifier.loss import Loss, learning_rate
from diffmix.classifier.model import (
    Classifier,
    bare_model,
    build_model,
    describe,
    input_layout,
    load_classifier,
    load_description,
    save_classifier,
)
from diffmix.classifier.samples import MixedSampler, MixedSamples
from diffmix.classifier.transforms import train_transform
from diffmix.datasets.real import RealSet
from diffmix.devices import limit_threads
from diffmix.errors import UserError
from diffmix.format_version import with_version, without_version
from diffmix.storage import Folder
from engine.training.deepspeed_config import prepare_environment, training_dtype
from engine.training.deepspeed_engine import full_weights, start_engine, thaw
from engine.training.pool import PoolReader, PoolWriter
from engine.training.worker import Arrivals, TrainJob


class ClassifierLoop:
    """One rank's training: epochs, validation, checkpoints, and at the end the test set. Owned by
    `train_loop`.
    """

    def __init__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals):
        prepare_environment()
        limit_threads(job.config.placement.cpus_per_trainer)
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.job, self.arrivals, self.train = job, arrivals, job.config.train
        self.real = RealSet.open(job.train)
        self.on_test = self.train.protocol == "reference"
        picking = job.test if self.on_test else job.val
        self.val = RealSet.open(picking) if picking else None
        self.classifier: Classifier = describe(self.train, self.real.class_names)
        torch.manual_seed(job.config.run.seed)
        self.dtype = training_dtype(self.train.precision)
        self.best = -1.0
        self.first_epoch = 0
        self.frozen = self.train.freeze_epochs > 0
        self.engine = self._start()
        class_sizes = np.bincount(self.real.labels, minlength=len(self.real.class_names))
        self.loss = Loss(self.train, class_sizes, self.engine.device)
        self.batch_mix = BatchMix(self.train, len(self.real.class_names))
        self.seed = (job.config.run.seed, self.rank)
        mix = job.config.mix
        self.sampler = MixedSampler(
            len(self.real),
            mix.synthetic_p if job.store else 0.0,
            pool.__len__,
            self.train.batch_size,
            job.config.run.seed,
            self.rank,
            self.world_size,
            PasteSampler(self.real.labels, self.train, job.config.run.seed)
            if self.train.cmo
            else None,
        )
        transform = train_transform(self.train, self.classifier)
        self.samples = MixedSamples(self.real, PoolReader(pool.folder), transform, mix, self.train)
        workers = self.train.loader_workers
        self.loader = DataLoader(
            self.samples,
            batch_size=self.train.batch_size // self.world_size,
            sampler=self.sampler,
            num_workers=workers,
            # A Ray worker is full of threads, which fork would copy in the middle of what they do.
            multiprocessing_context="forkserver" if workers else None,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        self.total_steps = self.train.epochs * self.sampler.steps
        self.lr_drops = [epoch * self.sampler.steps for epoch in self.train.lr_drop_epochs]

    def run(self) -> None:
        config = self.job.config
        self.arrivals.wait_for(
            int(config.run.train_after * self.job.planned / self.world_size)
            if self.job.store
            else 0
        )
        for epoch in range(self.first_epoch, self.train.epochs):
            self.arrivals.check()
            if self.frozen and epoch == self.train.freeze_epochs:
                self.engine = thaw(
                    self.engine,
                    bare_model(self.classifier),
                    self.train,
                    self.world_size,
                    self.dtype,
                )
                self.frozen = False
            seen = self._epoch(epoch)
            if (epoch + 1) % self.train.eval_every == 0 or epoch + 1 == self.train.epochs:
                self._validate_and_save(epoch, seen)
        self.arrivals.finish()
        self._test()

    def _epoch(self, epoch: int) -> dict:
        start = time.time()
        train_mode(self.engine.module, self.frozen)
        self.sampler.set_epoch(epoch)
        seen = {"images": 0, "synthetic": 0, "wait": 0.0, "loss": 0.0}
        batches = _timed(
            self.loader, lambda seconds: seen.__setitem__("wait", seen["wait"] + seconds)
        )
        for step, (images, labels, synthetic) in enumerate(batches, epoch * self.sampler.steps):
            rate = learning_rate(
                step, self.total_steps, self.train.lr, self.train.warmup_fraction, self.lr_drops
            )
            for group in self.engine.optimizer.param_groups:
                group["lr"] = rate
            device = self.engine.device
            images, labels = self.batch_mix(
                images.to(
                    device, self.dtype, non_blocking=True, memory_format=input_layout(device.type)
                ),
                labels.to(device, non_blocking=True),
                *self.seed,
                step,
            )
            loss = self.loss(self.engine(images), labels, epoch)
            self.engine.backward(loss)
            self.engine.step()
            seen.setdefault("first_step", time.time())
            seen["images"] += len(images)
            seen["synthetic"] += int(synthetic.sum())
            seen["loss"] += loss.detach()
        seen["loss"] = float(seen["loss"]) / self.sampler.steps
        self.job.reporter.send(
            self.job.name,
            node=ray.get_runtime_context().get_node_id(),
            start=start,
            end=time.time(),
            rank=self.rank,
            epoch=epoch,
            pool=self.sampler.pool_size(),
            **seen,
        )
        return seen

    def _validate_and_save(self, epoch: int, seen: dict) -> None:
        accuracy = self._validate()
        if self.rank == 0 and accuracy is not None:
            self.job.reporter.send("validation", phase=self.job.name, epoch=epoch, top1=accuracy)
        # Without a validation set the last epoch is as good as any that can be known.
        if accuracy is None or accuracy > self.best:
            weights = full_weights(self.engine, self.train.zero_stage)
            if self.rank == 0:
                self.classifier.metrics = {
                    "epoch": epoch + 1,
                    "top1": accuracy,
                    "on_test_set": self.on_test,
                }
                save_classifier(
                    Folder(self.job.classifier),
                    unit_rows(weights, self.engine.module),
                    self.classifier,
                )
            self.best = accuracy if accuracy is not None else self.best
        with tempfile.TemporaryDirectory(prefix="diffmix-checkpoint-") as folder:
            self.engine.save_checkpoint(
                folder, tag="state", client_state={"epoch": epoch + 1, "best": self.best}
            )
            if self.rank == 0:
                state = {"epoch": epoch + 1, "best": self.best, "workers": self.world_size}
                Path(folder, "epoch.json").write_text(json.dumps(with_version(state)))
            shown = {"epoch": epoch + 1, "loss": seen["loss"], "validation_top1": accuracy}
            ray.train.report(shown, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _validate(self) -> float | None:
        """Top-1 accuracy on the images that pick the epoch, each rank over its share of them; None
        where there are none.
        """
        if self.val is None:
            return None
        # As many rows for each rank, the last ones from the beginning again and not counted: ZeRO 3
        # gathers weights in each batch.
        share = -(-len(self.val) // self.world_size)
        places = self.rank + self.world_size * np.arange(share)
        rows = places % len(self.val)
        logits = metrics.predict(
            self.engine.module, self.classifier, self.val, rows, self._eval_batch()
        )
        right = (logits.argmax(1) == self.val.labels[rows]) & (places < len(self.val))
        correct = torch.tensor([float(right.sum())], device=self.engine.device)
        if self.world_size > 1:
            dist.all_reduce(correct)
        return float(correct) / len(self.val)

    def _start(self) -> Any:
        """The engine with its starting weights, or as the last checkpoint has it."""
        checkpoint = ray.train.get_checkpoint()
        kept = Folder(self.job.classifier)
        if checkpoint is None or not kept.exists(
            "model.json"
        ):  # a checkpoint whose best weights are gone cannot be gone on from
            model = build_model(self.train, len(self.real.class_names))
            return start_engine(model, self.train, self.world_size, self.dtype, self.frozen)
        with checkpoint.as_directory() as folder:
            state = without_version(
                json.loads(Path(folder, "epoch.json").read_text()), f"{folder}/epoch.json"
            )
            if self.train.zero_stage and state["workers"] != self.world_size:
                raise UserError(
                    f"The classifier was trained on {state['workers']} workers up to epoch {state['epoch']}, and ZeRO {self.train.zero_stage} has cut its "
                    f"optimizer's state for so many; set --placement.trainers {state['workers']} to go on, or choose another --out."
                )
            self.first_epoch, self.best = state["epoch"], state["best"]
            # A checkpoint that was written before the backbone was released is of an engine that
            # trains the head alone.
            self.frozen = 0 < self.first_epoch <= self.train.freeze_epochs
            engine = start_engine(
                bare_model(self.classifier), self.train, self.world_size, self.dtype, self.frozen
            )
            engine.load_checkpoint(folder, tag="state")
        if self.val is not None:
            # The best weights may be younger than the checkpoint: what is beaten is what the folder
            # holds.
            self.best = max(self.best, (load_description(kept).metrics or {}).get("top1") or -1.0)
        return engine

    def _test(self) -> None:
        """The best weights on the test set, once; rank 0 writes `result.json` beside them."""
        if dist.is_initialized():
            dist.barrier()  # rank 0 may still be writing the best weights
        if self.rank == 0:
            folder = Folder(self.job.classifier)
            result, confusion = evaluate(
                folder.uri, self.job.test, str(self.engine.device), self._eval_batch()
            )
            if confusion is not None:
                folder.write("confusion.json", json.dumps(confusion.tolist()).encode())
            folder.write("result.json", json.dumps(with_version(result), indent=2).encode())
        if dist.is_initialized():
            dist.barrier()

    def _eval_batch(self) -> int:
        return max(64, self.train.batch_size // self.world_size)


def evaluate(
    classifier: str, test: str | None, device: str = "cpu", batch_size: int = 64
) -> tuple[dict, np.ndarray | None]:
    """What a classifier's folder is worth on a real set, and its confusion matrix
    (`metrics.confusion`).

    The dictionary is that of `metrics.accuracy`, with `calibration`, `images` and `chosen`: how its
    epoch was chosen.
    """
    model, description = load_classifier(Folder(classifier), device)
    if not test:
        return {"chosen": description.metrics}, None
    real = RealSet.open(test)
    logits = metrics.predict(model, description, real, batch_size=batch_size)
    result = {"chosen": description.metrics, **metrics.accuracy(logits, real.labels, real.groups)}
    result |= {"calibration": metrics.calibration(logits, real.labels), "images": len(real)}
    return result, metrics.confusion(logits, real.labels)


def _timed(batches: DataLoader, waited: Callable[[float], None]) -> Iterator:
    """The batches; `waited` gets the seconds that each one was waited for."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        waited(time.perf_counter() - start)
        yield batch
