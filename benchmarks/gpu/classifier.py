"""The classifier's training: DeepSpeed's stages and precisions on images in memory, and fed by
DataLoaders.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from benchmarks.cub_cost import CUB_CLASSES, train_rate
from benchmarks.gpu.section import Context, Figures
from benchmarks.gpu.timing import peak_gb, reset_peak, sync
from benchmarks.random_images import random_file
from diffmix.classifier.loss import Loss
from diffmix.classifier.metrics import eval_loader, predict_all
from diffmix.classifier.model import build_model, describe
from diffmix.classifier.samples import MixedSampler, MixedSamples
from diffmix.classifier.transforms import Normalize, train_transform
from diffmix.config import MixConfig, TrainConfig
from diffmix.datasets.real import Example, RealSet
from diffmix.devices import loader_workers
from engine.training.deepspeed_config import prepare_environment, training_dtype
from engine.training.pool import PoolReader

_WARM_UP = 5
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes a batch's images and labels from the CPU or the device; gives the loss."""


def options(context: Context, **changes: Any) -> TrainConfig:
    """The paper's: ResNet-50 at 448 px, batches of 64."""
    sizes = context.sizes
    usual: dict[str, Any] = {
        "model_name": sizes.train_model,
        "pretrained": False,
        "resolution": sizes.train_side,
        "batch_size": sizes.train_batch,
    }
    return TrainConfig(**{**usual, **changes})


def in_memory(context: Context) -> Figures:
    """Images a second of plain torch, and of DeepSpeed by ZeRO stage and precision, one batch again
    and again.
    """
    sizes, device = context.sizes, context.device
    rate = train_rate(sizes.train_side, sizes.train_batch, sizes.train_steps, device)
    yield "plain_bf16_images_per_second", rate
    if not find_spec("deepspeed"):
        yield "deepspeed", "not installed: only plain torch was measured"
        return
    half = "bf16" if context.dtype() == torch.bfloat16 else "fp16"
    ways = [(0, half), (1, half), (2, half), (0, "fp32"), (1, "fp32"), (0, "fp16")]
    if device == "cpu":
        ways = [(0, "fp32"), (2, "fp32")]
    for stage, precision in dict.fromkeys(ways):
        name = f"zero{stage}_{precision}"
        if stage and precision == "fp16":
            continue  # refused: DeepSpeed would clip before it unscales
        if context.left() < 8:
            yield f"{name}_images_per_second", "no time left"
            continue
        try:
            reset_peak(device)
            step = deepspeed_step(options(context, zero_stage=stage, precision=precision))
            yield f"{name}_images_per_second", _rate(context, step, _same_batch(context))
            yield f"{name}_peak_gb", peak_gb(device)
        except Exception as error:  # DeepSpeed's are of any type
            yield f"{name}_images_per_second", f"{type(error).__name__}: {error}"[:300]


def from_loaders(context: Context) -> Figures:
    """Images a second from JPEG files: the loader alone and training that it feeds, by number of
    processes.
    """
    sizes = context.sizes
    real = RealSet.open(str(context.folder("photos", photos(context)) / "train.arrow"))
    step, name = best_step(context)
    yield "trained by", name
    alone = best = 0.0
    for workers in sizes.loader_workers:
        if context.left() < 15:
            yield f"workers_{workers}_loader_images_per_second", "no time left"
            continue
        batches = loaded(context, real, workers)
        next(batches)  # the processes have started
        rate = _alone(context, batches)
        yield f"workers_{workers}_loader_images_per_second", rate
        alone = max(alone, rate)
        rate = _rate(context, step, batches)
        yield f"workers_{workers}_images_per_second", rate
        best = max(best, rate)
    yield "loader_images_per_second", alone
    yield "images_per_second", best
    yield "workers that None means", str(loader_workers(None))
    if context.left() < 12:
        return
    batches = loaded(context, real, sizes.loader_workers[-1], as_bytes=False)
    next(batches)
    yield "float_loader_images_per_second", _alone(context, batches)
    config = options(context)
    description = describe(config, real.class_names)
    model = build_model(config, CUB_CLASSES).to(context.device)
    images = eval_loader(description, real, None, 64, sizes.loader_workers[-1])
    for _ in range(2):  # processes start in the first pass
        start = time.perf_counter()
        predict_all(model, description, images, context.dtype())
        rate = len(real) / (time.perf_counter() - start)
    yield "validation_images_per_second", rate


def _alone(context: Context, batches: Iterator) -> float:
    """Images a second that come when nobody trains on them."""
    seconds, images = 0.0, 0
    start = time.perf_counter()
    while seconds < (0.2 if context.rehearse else 3.0):
        images += len(next(batches)[0])
        seconds = time.perf_counter() - start
    return images / seconds


def photos(context: Context) -> Callable[[Path], object]:
    """What writes `train.arrow`, JPEG files with the bytes of photographs."""
    sizes = context.sizes

    def write(folder: Path) -> None:
        folder.mkdir()
        random = np.random.default_rng(0)
        files = [
            random_file(random, max(1, sizes.photo_side // 8), sizes.photo_side) for _ in range(64)
        ]
        names = [f"{i:03d}" for i in range(CUB_CLASSES)]
        examples = (Example(str(i), files[i % 64], i % CUB_CLASSES) for i in range(sizes.photos))
        RealSet.write(str(folder / "train.arrow"), examples, names, "thing")

    return write


def loaded(
    context: Context,
    real: RealSet,
    workers: int,
    pool_folder: str | None = None,
    pool_size: Callable[[], int] = lambda: 0,
    synthetic_p: float = 0.0,
    as_bytes: bool = True,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches without end, as `engine.training.classifier_loop.ClassifierLoop` loads them."""
    config = options(context)
    transform = train_transform(config, describe(config, real.class_names), as_bytes)
    mixes = PoolReader(pool_folder or context.scratch)
    samples = MixedSamples(real, mixes, transform, MixConfig(), config)
    sampler = MixedSampler(len(real), synthetic_p, pool_size, config.batch_size, seed=0)
    loader = DataLoader(
        samples,
        batch_size=config.batch_size,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context=context.method if workers else None,
        persistent_workers=workers > 0,
        pin_memory=context.device == "cuda",
    )
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def best_step(context: Context) -> tuple[Step, str]:
    """A train step as the engine takes it, or in plain torch where DeepSpeed is not there; and
    which of them it is.
    """
    if find_spec("deepspeed"):
        return deepspeed_step(options(context)), "DeepSpeed, ZeRO 0"
    return plain_step(options(context), context.device), "plain torch (no DeepSpeed here)"


def deepspeed_step(config: TrainConfig) -> Step:
    """A step of `ClassifierLoop` on the only worker there is."""
    prepare_environment()
    _one_rank()
    from engine.training.deepspeed_engine import start_engine

    dtype = training_dtype(config)
    engine = start_engine(build_model(config, CUB_CLASSES), config, 1, dtype, frozen=False)
    engine.train()
    loss_of = Loss(config, np.ones(CUB_CLASSES, dtype=np.int64), engine.device)
    normalize = Normalize(describe(config, []), engine.device)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images = normalize(images).to(dtype)
        loss = loss_of(engine(images), labels.to(engine.device, non_blocking=True), 0)
        engine.backward(loss)
        engine.step()
        return loss.detach()

    return step


def plain_step(config: TrainConfig, device: str) -> Step:
    """The same in plain torch, in bf16 autocast."""
    model = build_model(config, CUB_CLASSES).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loss_of = Loss(config, np.ones(CUB_CLASSES, dtype=np.int64), device)
    normalize = Normalize(describe(config, []), device)

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            logits = model(normalize(images))
        loss = loss_of(logits, labels.to(device, non_blocking=True), 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _one_rank() -> None:
    """torch's process group of this process alone."""
    if dist.is_initialized():
        return
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def _same_batch(context: Context) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    sizes, device = context.sizes, context.device
    images = torch.randn(sizes.train_batch, 3, sizes.train_side, sizes.train_side, device=device)
    labels = torch.full((sizes.train_batch, CUB_CLASSES), 1 / CUB_CLASSES, device=device)
    while True:
        yield images, labels


def _rate(context: Context, step: Step, batches: Iterator) -> float:
    """Images a second of `train_steps` steps, after some that warm up."""
    images, start = 0, 0.0
    for number in range(_WARM_UP + context.sizes.train_steps):
        if number == _WARM_UP:
            sync(context.device)
            start = time.perf_counter()
        batch = next(batches)
        step(batch[0], batch[1])
        images += len(batch[0]) * (number >= _WARM_UP)
        if images and context.left() < 3:
            break
    sync(context.device)
    return images / (time.perf_counter() - start)
