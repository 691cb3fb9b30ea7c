"""What sections need is imported here once, in the process that they are forked from. Nothing here
may start CUDA: a fork could not use it (`runner.start_method` tries it).
"""

import contextlib

with contextlib.suppress(ImportError):
    import torch.profiler  # noqa: F401
with contextlib.suppress(ImportError):
    import timm  # noqa: F401
with contextlib.suppress(ImportError):
    from diffusers import (  # noqa: F401
        AutoencoderKL,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from peft import LoraConfig  # noqa: F401

    import diffmix.generator.mixer
    import diffmix.personalize.train  # noqa: F401
