"""The UNet of Stable Diffusion 1.5 alone: by batch and memory layout, by kind of kernel, and
compiled. The compiled ones are standalone: not all that is measured here can be chosen in the
mixer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import random_base
from benchmarks.gpu.section import Context, Figures
from benchmarks.gpu.timing import (
    busy_seconds,
    kernels,
    median_seconds,
    peak_gb,
    reset_peak,
    shares,
    slowest,
    taken,
)
from diffmix.generator.device.accumulation import adding_in_fp16

LAYOUTS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}


def by_batch(context: Context) -> Figures:
    """Milliseconds a row, memory, share of the matmul rate, and what the time goes to."""
    unet, device = model(context, "unet"), context.device
    tflop = flops(call_of(unet, context, 1)) / 1e12
    yield "tflop_a_row", tflop
    ceiling = context.known.get("ceilings.matmul_half_tflops")
    best = 0.0
    for name, layout in LAYOUTS.items():
        unet.to(memory_format=layout)
        for rows in context.sizes.unet_rows:
            if context.left() < 10:
                return
            call = call_of(unet, context, rows)
            reset_peak(device)
            seconds = median_seconds(call, device, context.sizes.repeats)
            yield f"{name}_{rows}_ms_a_row", seconds / rows * 1e3
            yield f"{name}_{rows}_peak_gb", peak_gb(device)
            best = max(best, tflop * rows / seconds)
    yield "best_tflops", best
    if ceiling:
        yield "share_of_matmul", best / ceiling
    for name, layout in LAYOUTS.items():
        unet.to(memory_format=layout)
        call = call_of(unet, context, context.sizes.unet_rows[-2])
        ran = kernels(call, device)
        yield f"{name}_busy_share", busy_seconds(ran) / taken(call, device)
        for kind, share in shares(ran).items():
            yield f"{name}_share_{kind.replace(' ', '_')}", share
        yield f"{name} slowest kernels", slowest(ran)
    if device == "cuda":
        yield "graph_2_ms_a_row", _in_a_graph(call_of(unet, context, 2), context) / 2 * 1e3
    if device == "cuda":  # CPUs are slow with it
        unet.to(torch.float16)
    for name, wanted in (("fp16", False), ("fp16_added_in_fp16", True)):
        if context.left() > 5:
            call = call_of(unet, context, context.sizes.unet_rows[-2])
            with adding_in_fp16(wanted):
                seconds = median_seconds(call, device, context.sizes.repeats)
            yield f"{name}_ms_a_row", seconds / context.sizes.unet_rows[-2] * 1e3


def compiled(context: Context) -> Figures:
    """Speed-ups over the eager UNet: its blocks compiled, as `model.compile` does, and all of it;
    the VAE's decoder compiled.
    """
    rows, device, repeats = context.sizes.unet_rows[-2], context.device, context.sizes.repeats
    eager: dict[str, float] = {}
    unet = model(context, "unet")
    for name, layout in LAYOUTS.items():
        unet.to(memory_format=layout)
        eager[name] = median_seconds(call_of(unet, context, rows), device, repeats)
        yield f"eager_{name}_ms", eager[name] * 1e3
    names = ("regional_nhwc", "whole_nhwc", "decoder", "whole_nchw")
    # The last one has no code of its own, and tracing takes seconds.
    for name in names[:3] if context.rehearse else names:
        if name == "decoder":
            yield from _compiled_decoder(context)
            continue
        if context.left() < 20:
            yield f"{name}_speedup", "no time left"
            continue
        # Blocks that are compiled stay so: each way begins with a UNet of its own.
        unet = model(context, "unet").to(memory_format=LAYOUTS[name[-4:]])
        try:
            call = call_of(_compile(unet, name.startswith("whole"), context), context, rows)
            yield f"{name}_first_call_s", taken(call, device)
            seconds = median_seconds(call, device, repeats)
        except Exception as error:  # of the compiler: of any type
            yield f"{name}_speedup", _first_line(error)
            continue
        yield f"{name}_ms", seconds * 1e3
        yield f"{name}_speedup", min(eager.values()) / seconds


def _compile(unet: Any, whole: bool, context: Context) -> Any:
    torch.compiler.reset()
    options: dict[str, Any] = {"backend": context.sizes.compile_backend, "dynamic": False}
    if whole:
        return torch.compile(unet, **options)
    unet.compile_repeated_blocks(**options)
    return unet


def _compiled_decoder(context: Context) -> Figures:
    if context.left() < 20:
        yield "decoder_speedup", "no time left"
        return
    vae, device = model(context, "vae"), context.device
    vae.to(memory_format=torch.channels_last)
    side = context.sizes.side // 8 if not context.rehearse else 8
    dtype = next(vae.parameters()).dtype
    latents = torch.randn(4, vae.config.latent_channels, side, side, device=device, dtype=dtype)

    def call() -> None:
        with torch.inference_mode():
            vae.decode(latents, return_dict=False)

    eager = median_seconds(call, device, context.sizes.repeats)
    yield "decoder_eager_ms_an_image", eager / 4 * 1e3
    try:
        torch.compiler.reset()
        vae.decoder.compile(backend=context.sizes.compile_backend, dynamic=False)
        yield "decoder_first_call_s", taken(call, device)
        seconds = median_seconds(call, device, context.sizes.repeats)
    except Exception as error:
        yield "decoder_speedup", _first_line(error)
        return
    yield "decoder_speedup", eager / seconds


def model(context: Context, part: str) -> Any:
    """The `unet` or `vae` in half precision, for inference, without a pipeline around it."""
    if context.rehearse:
        from diffmix.config import ModelConfig
        from diffmix.generator.base_model import load_base

        return getattr(load_base(ModelConfig(base="nano"), "cpu", torch.float32), part)
    made = random_base.sd15_unet if part == "unet" else random_base.sd15_vae
    with random_base.making(context.dtype(), context.device):
        return made().eval().requires_grad_(False)


def call_of(unet: Any, context: Context, rows: int) -> Callable[[], object]:
    """A call of the UNet for `rows` latents, as the mixer makes it."""
    config, device = unet.config, context.device
    dtype = next(unet.parameters()).dtype
    side = context.sizes.side // 8 if not context.rehearse else config.sample_size
    latents = torch.randn(rows, config.in_channels, side, side, device=device, dtype=dtype)
    text = torch.randn(rows, 77, config.cross_attention_dim, device=device, dtype=dtype)
    timestep = torch.tensor(500, device=device)

    def call() -> Any:
        with torch.inference_mode():
            return unet(latents, timestep, encoder_hidden_states=text, return_dict=False)[0]

    return call


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call; a multiplication and an addition are two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _in_a_graph(call: Callable[[], object], context: Context) -> float:
    """Seconds of a call that is replayed as one CUDA graph."""
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        call()
    torch.cuda.current_stream().wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return median_seconds(graph.replay, context.device, context.sizes.repeats)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"does not run ({type(error).__name__}: {text[0][:200]})"
