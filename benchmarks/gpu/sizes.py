"""How large everything is: on a GPU, and in a rehearsal on a CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sides are in pixels."""

    side: int
    """Of a mix."""
    steps: int
    """Denoising steps of the full schedule."""
    unet_rows: tuple[int, ...]
    """Batches of the UNet; the last but one is also profiled and compiled."""
    matmul: int
    """Side of the matrices."""
    copy_bytes: int
    attention_rows: int
    chunk: int
    """Mixes in a chunk where the number is not what is measured."""
    largest_batch: int
    """That `mix.batch auto` may choose."""
    stock_images: int
    agreeing_images: int
    repeats: int
    """Calls of which the median counts."""
    personalize_side: int
    personalize_batches: tuple[int, ...]
    train_side: int
    train_batch: int
    train_steps: int
    train_model: str
    photos: int
    photo_side: int
    loader_workers: tuple[int, ...]
    xl_side: int
    xl_steps: int
    xl_batches: tuple[int, ...]
    caps_gb: tuple[int, ...]
    """GPU memory of smaller cards."""
    overlap_steps: int
    compile_backend: str


REAL = Sizes(
    side=512,
    steps=25,
    unet_rows=(2, 8, 32, 64),
    matmul=8192,
    copy_bytes=2**31,
    attention_rows=32,
    chunk=16,
    largest_batch=64,
    stock_images=6,
    agreeing_images=4,
    repeats=5,
    personalize_side=224,
    personalize_batches=(2, 16, 64),
    train_side=448,
    train_batch=64,
    train_steps=40,
    train_model="resnet50",
    photos=512,
    photo_side=500,
    loader_workers=(2, 8, 14),
    xl_side=1024,
    xl_steps=20,
    xl_batches=(1, 4, 8),
    caps_gb=(24, 15),
    overlap_steps=100,
    compile_backend="inductor",
)

REHEARSAL = Sizes(
    side=32,
    steps=4,
    unet_rows=(1, 2, 4),
    matmul=64,
    copy_bytes=2**16,
    attention_rows=1,
    chunk=2,
    largest_batch=2,
    stock_images=1,
    agreeing_images=2,
    repeats=1,
    personalize_side=32,
    personalize_batches=(2,),
    train_side=32,
    train_batch=4,
    train_steps=3,
    train_model="resnet10t",
    photos=16,
    photo_side=40,
    loader_workers=(1,),
    xl_side=32,
    xl_steps=2,
    xl_batches=(1,),
    caps_gb=(24,),
    overlap_steps=3,
    compile_backend="eager",  # the C++ compiler would take minutes
)
