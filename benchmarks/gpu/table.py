"""All sections, in the order in which they run."""

from __future__ import annotations

from benchmarks.gpu.section import Goal, Section

_DIFFUSERS = ("diffusers",)
_TRUE = Goal(1)  # 1 for yes, 0 for no

SECTIONS = (
    Section(
        name="machine",
        part=1,
        seconds=25,
        run="machine:describe",
        shown=("launch_us", "launch_in_graph_us", "memory_gb"),
    ),
    Section(
        name="ceilings",
        part=1,
        seconds=50,
        run="ceilings:measure",
        shown=(
            "matmul_half_tflops",
            "matmul_fp32_tflops",
            "copy_gb_per_s",
            "conv_320_64_nhwc_tflops",
            "conv_320_64_nchw_tflops",
            "attention_self_64_best_tflops",
        ),
    ),
    Section(
        name="tests",
        part=1,
        seconds=75,
        run="suite:run",
        shown=("passed", "failed", "skipped"),
        goals={"failed": Goal(0, at_most=True)},
        needs=("pytest", *_DIFFUSERS),
    ),
    Section(
        name="unet",
        part=1,
        seconds=75,
        run="unet:by_batch",
        shown=("nhwc_32_ms_a_row", "nchw_32_ms_a_row", "best_tflops", "share_of_matmul"),
        needs=_DIFFUSERS,
    ),
    Section(
        name="mixer",
        part=1,
        seconds=130,
        run="mixing:speed",
        shown=(
            "images_per_second",
            "share_of_matmul",
            "batch",
            "peak_gb",
            "stock_images_per_second",
            "ratio_to_stock",
            "stock_busy_share",
            "made with",
        ),
        goals={"images_per_second": Goal(12, 15.5), "ratio_to_stock": Goal(5)},
        needs=_DIFFUSERS,
    ),
    Section(
        name="agreement",
        part=1,
        seconds=70,
        run="mixing:agreement",
        shown=("fp32_psnr_db_min", "half_psnr_db_min", "nano_half_psnr_db_min"),
        goals={"fp32_psnr_db_min": Goal(40), "nano_fp32_psnr_db_min": Goal(40)},
        needs=_DIFFUSERS,
    ),
    Section(
        name="bytes",
        part=1,
        seconds=60,
        run="mixing:bytes_of_a_chunk",
        helpers=2,
        shown=("same_after_another", "same_from_two_threads", "same_in_other_processes"),
        goals={
            "same_after_another": _TRUE,
            "same_from_two_threads": _TRUE,
            "same_in_other_processes": _TRUE,
        },
        needs=_DIFFUSERS,
    ),
    Section(
        name="idle",
        part=1,
        seconds=60,
        run="mixing:idle",
        shown=("images_per_second", "outside_lock_share", "idle_share"),
        needs=_DIFFUSERS,
    ),
    Section(
        name="personalization",
        part=2,
        seconds=85,
        run="personalizing:by_batch",
        shown=(
            "samples_per_second",
            "cub_minutes",
            "batch_2_samples_per_second",
            "batch_2_graph_samples_per_second",
            "batch_64_autocast_samples_per_second",
            "batch_2_busy_share",
        ),
        goals={"cub_minutes": Goal(15, 8, at_most=True)},
        needs=_DIFFUSERS,
    ),
    Section(
        name="classifier",
        part=2,
        seconds=50,
        run="classifier:in_memory",
        shown=("plain_bf16_images_per_second", "zero0_bf16_images_per_second", "deepspeed"),
    ),
    Section(
        name="loaders",
        part=2,
        seconds=50,
        run="classifier:from_loaders",
        shown=(
            "workers_2_loader_images_per_second",
            "loader_images_per_second",
            "float_loader_images_per_second",
            "images_per_second",
            "validation_images_per_second",
        ),
        goals={"images_per_second": Goal(1000)},
    ),
    Section(
        name="sdxl",
        part=2,
        seconds=80,
        run="sdxl:speed",
        shown=("images_per_second", "load_s"),
        goals={"images_per_second": Goal(2)},
        needs=_DIFFUSERS,
    ),
    Section(
        name="compile",
        part=2,
        seconds=130,
        run="unet:compiled",
        shown=(
            "whole_nhwc_speedup",
            "regional_nhwc_speedup",
            "whole_nchw_speedup",
            "decoder_speedup",
        ),
        needs=_DIFFUSERS,
    ),
    Section(
        name="mixer_compiled",
        part=2,
        seconds=40,
        run="mixing:compiled_speed",
        shown=("images_per_second", "first_chunk_s", "scope"),
        goals={"images_per_second": Goal(12, 15.5)},
        needs=_DIFFUSERS,
    ),
    Section(
        name="overlap",
        part=2,
        seconds=60,
        run="beside:overlap",
        helpers=1,
        shown=("mixes_per_second_beside", "train_images_per_second_beside", "synthetic_share"),
        needs=_DIFFUSERS,
    ),
    Section(
        name="capped",
        part=2,
        seconds=70,
        run="sdxl:capped",
        shown=("24_gb_batch", "15_gb_batch"),
        needs=_DIFFUSERS,
    ),
    Section(
        name="full_cub",
        part=2,
        seconds=5,
        run="totals:full_cub",
        shown=("minutes",),
        goals={"minutes": Goal(70, 55, at_most=True)},
    ),
)


def of_part(part: int) -> list[Section]:
    """The sections of a part."""
    return [section for section in SECTIONS if section.part == part]
