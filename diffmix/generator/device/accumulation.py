"""In which format a GPU adds up the products of fp16 numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def adding_in_fp16(wanted: bool) -> Iterator[None]:
    """Inside, matrix products of fp16 numbers are added up in fp16 if `wanted`. GeForce GPUs are
    then up to twice as fast with them. Convolutions and attention stay as they are.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_fp16_accumulation
    matmul.allow_fp16_accumulation = wanted
    try:
        yield
    finally:
        matmul.allow_fp16_accumulation = before


def number_format(dtype: torch.dtype, fp16_accumulation: bool) -> str:
    """The name of a number format, with how its products are added up where that is unusual."""
    name = str(dtype).removeprefix("torch.")
    return f"{name}, added in float16" if fp16_accumulation else name
