"""What the card reaches with one operation alone: matrix products, copies, the UNet's convolutions
and its attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import record
from benchmarks.gpu.section import Context, Figures
from benchmarks.gpu.timing import median_seconds

_SHAPES = {
    "self_64": (8, 4096, 4096, 40),
    "self_32": (8, 1024, 1024, 80),
    "cross_64": (8, 4096, 77, 40),
}
"""Attention in the UNet of Stable Diffusion 1.5 at 512 px: heads, queries, keys, size of a head."""
_CONVOLUTIONS = {"conv_320_64": (320, 64), "conv_1280_16": (1280, 16)}
"""Two 3 x 3 convolutions of that UNet: channels, side."""


def measure(context: Context) -> Figures:
    """TFLOP/s of each, and GB/s read and written by a copy."""
    half = context.dtype()
    yield from _matmuls(context)
    yield "copy_gb_per_s", _copy(context)
    for name, (channels, side) in _CONVOLUTIONS.items():
        for layout in (torch.contiguous_format, torch.channels_last):
            suffix = "nhwc" if layout == torch.channels_last else "nchw"
            yield f"{name}_{suffix}_tflops", _convolution(context, channels, side, half, layout)
    backends = [backend for backend in _backends() if context.left() > 0]
    best: dict[str, float] = {}
    for name, shape in _SHAPES.items():
        for backend in backends:
            figure = f"attention_{name}_{backend}_tflops"
            try:
                rate = _attention(context, shape, half, backend)
            except (RuntimeError, ImportError, NotImplementedError, ValueError) as error:
                yield figure, f"does not run ({str(error).strip().splitlines()[0]})"
                continue
            yield figure, rate
            best[name] = max(best.get(name, 0.0), rate)
        if name in best:
            yield f"attention_{name}_best_tflops", best[name]


def _matmuls(context: Context) -> Figures:
    size = context.sizes.matmul
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    for name, dtype in dtypes.items():
        rate = _matmul(context, size, dtype)
        yield f"matmul_{name}_tflops", rate
        if dtype == context.dtype():
            yield "matmul_half_tflops", rate
    with tf32():
        yield "matmul_tf32_tflops", _matmul(context, size, torch.float32)


@contextmanager
def tf32() -> Iterator[None]:
    """fp32 products may round to TF32, as torch does it on demand."""
    with record.without_tf32():
        torch.backends.cuda.matmul.allow_tf32 = True
        yield


def _matmul(context: Context, size: int, dtype: torch.dtype) -> float:
    # Random numbers: products of zeros draw less power and run faster.
    one, other = (torch.randn(size, size, device=context.device, dtype=dtype) for _ in range(2))
    return _tflops(context, lambda: one @ other, 2 * size**3)


def _copy(context: Context) -> float:
    one = torch.empty(context.sizes.copy_bytes, dtype=torch.uint8, device=context.device).random_()
    other = torch.empty_like(one)
    seconds = median_seconds(lambda: other.copy_(one), context.device, context.sizes.repeats)
    return 2 * one.nbytes / seconds / 1e9


def _convolution(
    context: Context, channels: int, side: int, dtype: torch.dtype, layout: torch.memory_format
) -> float:
    if context.rehearse:
        channels, side = channels // 16, side // 4
    rows, device = context.sizes.attention_rows, context.device
    images = torch.randn(rows, channels, side, side, device=device, dtype=dtype)
    weights = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    images, weights = images.to(memory_format=layout), weights.to(memory_format=layout)
    flops = 2 * rows * channels**2 * 9 * side**2
    return _tflops(context, lambda: functional.conv2d(images, weights, padding=1), flops)


def _backends() -> dict[str, SDPBackend | None]:
    """The kernels to try, by name; None is xformers'."""
    return {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
        "xformers": None,
    }


def _attention(
    context: Context, shape: tuple[int, int, int, int], dtype: torch.dtype, backend: str
) -> float:
    heads, queries, keys, size = shape
    if context.rehearse:
        heads, queries, keys = 2, queries // 64, max(16, keys // 64)
    rows, device = context.sizes.attention_rows, context.device
    flops = 4 * rows * heads * queries * keys * size
    chosen = _backends()[backend]
    # As diffusers lays them out: the heads side by side in one projection's rows.
    q, k, v = (
        torch.randn(rows, length, heads, size, device=device, dtype=dtype)
        for length in (queries, keys, keys)
    )
    if chosen is None:
        import xformers.ops

        return _tflops(context, lambda: xformers.ops.memory_efficient_attention(q, k, v), flops)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    with sdpa_kernel(chosen):
        return _tflops(context, lambda: functional.scaled_dot_product_attention(q, k, v), flops)


def _tflops(context: Context, call: Callable[[], object], flops: float) -> float:
    with torch.inference_mode():
        return flops / median_seconds(call, context.device, context.sizes.repeats) / 1e12
