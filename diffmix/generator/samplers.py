"""The samplers that mixers can run, and the LoRA that the few-step ones need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffmix.errors import UserError, reason
from diffmix.formats.lora import check_layers
from diffmix.storage import local_version

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Sampler = Literal["dpm", "lcm", "tcd"]


def make_scheduler(sampler: Sampler, pipe: StableDiffusionPipeline) -> Any:
    """The sampler's diffusers scheduler, on the pipeline's noise schedule.

    `dpm` is DPM-Solver++ (2211.01095), `lcm` latent consistency (2310.04378), `tcd` trajectory
    consistency (2402.19159) with diffusers' own eta of 0.3.
    """
    import diffusers

    kind = {
        "dpm": diffusers.DPMSolverMultistepScheduler,
        "lcm": diffusers.LCMScheduler,
        "tcd": diffusers.TCDScheduler,
    }[sampler]
    return kind.from_config(pipe.scheduler.config)


def check_sampler_lora(path: str | None) -> None:
    """Raise `UserError` if `path` is set and nothing is there."""
    if path and not Path(local_version(path)).exists():
        raise UserError(
            f"There is no LoRA at {path}; set --mix.sampler_lora to a safetensors file or a folder "
            "with one."
        )


def fuse_sampler_lora(pipe: StableDiffusionPipeline, path: str) -> None:
    """Add the LoRA at `path` (in any naming that diffusers reads) into the UNet's weights, on top
    of what is fused already.

    Raises `UserError` if it is not a LoRA, or was made for another kind of model.
    """
    from safetensors import SafetensorError

    check_sampler_lora(path)
    try:
        state, alphas, header = pipe.lora_state_dict(
            local_version(path), unet_config=pipe.unet.config, return_lora_metadata=True
        )
        if not any(key.startswith("unet.") for key in state):
            raise ValueError("it has no weights for a UNet")
        check_layers({key: state[key] for key in state if key.startswith("unet.")}, pipe.unet)
        pipe.load_lora_into_unet(state, alphas, pipe.unet, metadata=header)
        pipe.unet.fuse_lora()
        pipe.unet.unload_lora()
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f"The LoRA {path} does not fit the base model ({reason(error)}); choose another "
            "--mix.sampler_lora."
        ) from error
