"""The classifier's loop on one Ray Train worker: DeepSpeed over real images and a growing pool of
mixes.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from jaxtyping import Float, Num
from torch import Tensor
from torch.utils.data import DataLoader

from diffmix.classifier import metrics
from diffmix.classifier.batch_mix import BatchMix, CutMixSampler, uses_pasted_cutmix
from diffmix.classifier.cmo import Pastes, PasteSampler
from diffmix.classifier.head import train_mode, unit_rows
from diffmix.classifier.loss import Loss
from diffmix.classifier.model import (
    Classifier,
    bare_model,
    build_model,
    describe,
    load_description,
    save_classifier,
)
from diffmix.classifier.samples import MixedSampler, MixedSamples
from diffmix.classifier.schedule import Schedule
from diffmix.classifier.target_draw import TargetDraw, inverse_weights
from diffmix.classifier.transforms import Normalize, train_transform
from diffmix.config import replace
from diffmix.datasets.real import RealSet
from diffmix.devices import loader_workers, take_share
from diffmix.errors import UserError
from diffmix.format_version import with_version, without_version
from diffmix.storage import Folder
from engine.nodes.notice import Notice
from engine.placement.sockets import shorten_listeners
from engine.telemetry import now
from engine.training.arrivals import Arrivals
from engine.training.deepspeed_config import prepare_environment, training_dtype
from engine.training.deepspeed_engine import full_weights, start_engine, thaw
from engine.training.job import TrainJob
from engine.training.pool import PoolReader, PoolWriter
from engine.training.position import CheckpointClock, Position, Resumed, random_state, timed
from engine.worker_group.growth import Growth


class ClassifierLoop:
    """One rank's training: epochs, validation, checkpoints, and at the end the test set.

    `worker.train_loop` owns it.
    """

    def __init__(self, job: TrainJob, pool: PoolWriter, arrivals: Arrivals):
        placement = job.config.placement
        take_share(placement.cpus_per_trainer, placement.gpus_per_trainer)
        prepare_environment()
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.job, self.arrivals = job, arrivals
        self.real = RealSet.open(job.train_path)
        self.schedule = Schedule(job.config.train, len(self.real), self.world_size)
        self.options = replace(job.config.train, batch_size=self.schedule.batch_size)
        self.seed = job.config.run.seed if self.options.seed is None else self.options.seed
        self.on_test = self.options.protocol == "reference"
        picks_epoch = job.test_path if self.on_test else job.val_path
        self.val = RealSet.open(picks_epoch) if picks_epoch else None
        self.classifier: Classifier = describe(self.options, self.real.class_names)
        torch.manual_seed(self.seed)
        self.dtype = training_dtype(self.options)
        self.best, self.start = -1.0, Position()
        self.frozen = self.options.freeze_epochs > 0
        self.engine, num_classes = self._start(), len(self.real.class_names)
        self.class_sizes = np.bincount(self.real.labels, minlength=num_classes)
        self.loss = Loss(self.options, self.class_sizes, self.engine.device, job.store is not None)
        self.batch_mix = BatchMix(self.options, num_classes)
        self.sampler = self._sampler(pool)
        self.resumed = Resumed(self.sampler)
        minutes = self.options.checkpoint_minutes
        notice = Notice(job.reporter, self.rank)
        self.clock = CheckpointClock(minutes, self.world_size, self.engine.device, notice)
        self.workers = loader_workers(self.options.loader_workers)
        self.growth = Growth(job.elastic, arrivals, self.engine.device)
        self.loader = self._loader(pool)
        self.val_loader: DataLoader | None = None
        workers = self.workers * (self.engine.device.type == "cuda")  # else cores are busy
        self.eval_sizes = max(64, self.options.batch_size // self.world_size), workers
        self.normalize = Normalize(self.classifier, self.engine.device)

    def _sampler(self, pool: PoolWriter) -> MixedSampler:
        mix = self.job.config.mix
        weighted = mix.target_weighting == "inverse"
        return MixedSampler(
            len(self.real),
            mix.synthetic_p if self.job.store else 0.0,
            pool.__len__,
            self.options.batch_size,
            self.seed,
            self.rank,
            self.world_size,
            self._pastes(),
            samples=self.schedule.samples,
            pick=TargetDraw(inverse_weights(self.class_sizes), pool.targets) if weighted else None,
        )

    def _pastes(self) -> Pastes | None:
        if self.options.cmo:
            return PasteSampler(self.real.labels, self.options, self.seed)
        if uses_pasted_cutmix(self.options):
            return CutMixSampler(len(self.real), self.options, self.seed)
        return None

    def _loader(self, pool: PoolWriter) -> DataLoader:
        transform = train_transform(self.options, self.classifier, as_bytes=True)
        mixes = PoolReader(pool.folder)
        samples = MixedSamples(self.real, mixes, transform, self.job.config.mix, self.options)
        shorten_listeners()
        return DataLoader(
            samples,
            batch_size=self.options.batch_size // self.world_size,
            sampler=self.resumed,
            num_workers=self.workers,
            # Not fork: a Ray worker has many threads, and fork copies their locks as they are.
            multiprocessing_context="forkserver" if self.workers else None,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def run(self) -> None:
        """Train from the first epoch, or from the last checkpoint, to the last epoch; then test."""
        first_mixes = self.job.config.run.train_after * self.job.planned / self.world_size
        self.arrivals.wait_for(int(first_mixes) if self.job.store else 0)
        if not self.start.step:
            self.start.restore_random()
        for epoch in range(self.start.epoch, self.options.epochs):
            self.arrivals.check()
            if self.frozen and epoch == self.options.freeze_epochs:
                self._thaw()
            seen = self._epoch(epoch)
            # Without images that pick the epoch the last one is kept.
            last = self.val is None and epoch + 1 == self.options.epochs
            if self.schedule.validates(epoch) or last:
                self._validate_and_save(epoch, seen)
        self.growth.finish_stream(self.job.planned, self.sampler.pool_size())
        self._test()

    def _thaw(self) -> None:
        model = bare_model(self.classifier)
        self.engine = thaw(self.engine, model, self.options, self.world_size, self.dtype)
        self.frozen = False

    def _epoch(self, epoch: int) -> dict:
        """One pass over the real images. Gives what was seen: `images`, how many of them
        `synthetic`, the mean `loss`, the time of the `first_step`, seconds of `wait` for data.
        """
        start = now()
        train_mode(self.engine.module, self.frozen)
        self.sampler.set_epoch(epoch)
        first = self.start if self.start.epoch == epoch else Position(epoch)
        counts = first.seen
        self.resumed.skip = first.step * self.options.batch_size // self.world_size
        begun = epoch * self.sampler.steps + first.step
        first_step: float | None = None

        def waited(seconds: float) -> None:
            counts.wait += seconds

        def began() -> None:
            if first.step:  # a new iterator draws from the generator whose state was kept
                first.restore_random()

        batches = timed(self.loader, waited, began)
        for step, (images, labels, synthetic) in enumerate(batches, begun):
            loss = self._step(images, labels, step, epoch)
            first_step = first_step or now()
            counts.add(len(images), int(synthetic.sum()), loss)
            done = step + 1 - epoch * self.sampler.steps
            left = (self.options.epochs - epoch) * self.sampler.steps - done
            if (self.growth.due(left) or self.clock.due()) and done < self.sampler.steps:
                self._save(Position(epoch, done, counts, random_state()), self.growth.shown)
                self.growth.leave()
        seen = {
            "images": counts.images,
            "synthetic": counts.synthetic,
            "wait": counts.wait,
            "loss": float(counts.loss) / max(1, counts.steps),
            "first_step": first_step or start,
        }
        self.job.reporter.send(
            self.job.name,
            node=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
            start=start,
            end=now(),
            rank=self.rank,
            epoch=epoch,
            pool=self.sampler.pool_size(),
            **seen,
        )
        return seen

    def _step(
        self,
        images: Num[Tensor, "batch 3 height width"],
        labels: Float[Tensor, "batch classes"],
        step: int,
        epoch: int,
    ) -> Float[Tensor, ""]:
        """One train step on this rank's share of a batch; gives its loss, which may still be
        computing. `step` counts from the first epoch's start.
        """
        rate = self.schedule.rate(step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        images = self.normalize(images).to(self.dtype)
        labels = labels.to(self.engine.device, non_blocking=True)
        images, labels = self.batch_mix(images, labels, self.seed, self.rank, step)
        loss = self.loss(self.engine(images), labels, epoch)
        self.engine.backward(loss)
        self.engine.step()
        return loss.detach()

    def _validate_and_save(self, epoch: int, seen: dict) -> None:
        accuracy = self._validate()
        if self.rank == 0 and accuracy is not None:
            self.job.reporter.send("validation", phase=self.job.name, epoch=epoch, top1=accuracy)
        # Without a validation set nothing says which epoch is best: the last one is kept.
        if accuracy is None or accuracy > self.best:
            self._save_best(epoch, accuracy)
        self._save(
            Position(epoch + 1, 0, random=random_state()),
            {"loss": seen["loss"], "validation_top1": accuracy},
        )

    def _save(self, position: Position, shown: dict) -> None:
        """Keep a checkpoint at this position. Every rank adds its part."""
        with tempfile.TemporaryDirectory(prefix="diffmix-checkpoint-") as folder:
            state = {"epoch": position.epoch, "step": position.step, "best": self.best}
            self.engine.save_checkpoint(folder, tag="state", client_state=state)
            position.save(folder, self.rank)
            if self.rank == 0:
                text = json.dumps(with_version({**state, "workers": self.world_size}))
                Path(folder, "epoch.json").write_text(text)
            ray.train.report(
                {"epoch": position.epoch, "step": position.step, **shown},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
            )
        self.clock.kept()

    def _save_best(self, epoch: int, accuracy: float | None) -> None:
        weights = full_weights(self.engine, self.options.zero_stage)
        if self.rank == 0:
            self.classifier.metrics = {
                "epoch": epoch + 1,
                "top1": accuracy,
                "on_test_set": self.on_test,
            }
            weights = unit_rows(weights, self.engine.module)
            save_classifier(Folder(self.job.classifier), weights, self.classifier)
        if accuracy is not None:
            self.best = accuracy

    def _validate(self) -> float | None:
        """Top-1 accuracy, in [0, 1], on the images that pick the epoch; None where there are none.
        Each rank predicts its share of them.
        """
        if self.val is None:
            return None
        # ZeRO 3 gathers weights in each batch, so every rank needs the same number of rows: the
        # last ones start over from the first row, and are not counted.
        share = -(-len(self.val) // self.world_size)
        positions = self.rank + self.world_size * np.arange(share)
        rows = positions % len(self.val)
        if self.val_loader is None:
            self.val_loader = metrics.eval_loader(self.classifier, self.val, rows, *self.eval_sizes)
        logits = metrics.predict_all(
            self.engine.module, self.classifier, self.val_loader, self.dtype
        )
        right = (logits.argmax(1) == self.val.labels[rows]) & (positions < len(self.val))
        correct = torch.tensor([float(right.sum())], device=self.engine.device)
        if self.world_size > 1:
            dist.all_reduce(correct)
        return float(correct) / len(self.val)

    def _start(self) -> Any:
        """The DeepSpeed engine, with its starting weights or with the last checkpoint's state."""
        checkpoint = ray.train.get_checkpoint()
        engine = self._resume(checkpoint) if checkpoint else None
        if engine is None:
            model = build_model(self.options, len(self.real.class_names))
            return start_engine(model, self.options, self.world_size, self.dtype, self.frozen)
        return engine

    def _resume(self, checkpoint: ray.train.Checkpoint) -> Any:
        """The engine as the checkpoint has it; None for one that is of no use."""
        with checkpoint.as_directory() as folder:
            text = Path(folder, "epoch.json").read_text()
            state = without_version(json.loads(text), f"{folder}/epoch.json")
            validated = state["best"] > -1
            if validated and not Folder(self.job.classifier).exists("model.json"):
                return None  # the best weights, which may be older than it, are gone
            if self.options.zero_stage and state["workers"] != self.world_size:
                raise UserError(
                    f"The classifier was trained on {state['workers']} workers up to epoch "
                    f"{state['epoch']}, and ZeRO {self.options.zero_stage} has split its "
                    f"optimizer's state for that number; resume with --placement.trainers "
                    f"{state['workers']}, or choose another --out."
                )
            self.best = state["best"]
            self.start = Position.load(folder, self.rank, self.world_size, state)
            # Up to the thaw, checkpoints are of an engine that trains the head alone.
            trained = self.start.epoch + (self.start.step > 0)
            self.frozen = 0 < trained <= self.options.freeze_epochs
            model = bare_model(self.classifier)
            engine = start_engine(model, self.options, self.world_size, self.dtype, self.frozen)
            engine.load_checkpoint(folder, tag="state")
        if self.val is not None and Folder(self.job.classifier).exists("model.json"):
            # The best weights may be younger than the checkpoint: compare with what is stored.
            stored = load_description(Folder(self.job.classifier)).metrics or {}
            self.best = max(self.best, stored.get("top1") or -1.0)
        return engine

    def _test(self) -> None:
        """Test the best weights once, on rank 0, which writes `result.json` beside them."""
        if dist.is_initialized():
            dist.barrier()  # rank 0 may still be writing the best weights
        if self.rank == 0:
            folder = Folder(self.job.classifier)
            device = str(self.engine.device)

            def keep(logits: Float[np.ndarray, "images classes"]) -> None:
                folder.write("predictions.json", json.dumps(logits.argmax(1).tolist()).encode())

            result, confusion = metrics.evaluate_folder(
                folder.uri, self.job.test_path, device, *self.eval_sizes, keep
            )
            if confusion is not None:
                folder.write("confusion.json", json.dumps(confusion.tolist()).encode())
            folder.write("result.json", json.dumps(with_version(result), indent=2).encode())
        if dist.is_initialized():
            dist.barrier()
