"""What is trained, and the loss: new embedding rows and LoRA beside a frozen Stable Diffusion
(paper, section 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from diffmix.errors import UserError
from diffmix.generator.base_model import text_parts
from diffmix.generator.concept import spell
from diffmix.generator.prompt_encoder import Conditioning, PromptEncoder

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from diffmix.generator.base_model import Pipeline

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
"""The UNet's attention projections."""


class ConceptEmbedding(nn.Module):
    """A frozen token embedding and new rows behind it, which are a parameter of their own.

    Ids below `first_id` are looked up in `base`, the others in `rows` (float32 [new tokens, dim]).
    """

    def __init__(self, base: nn.Embedding, rows: nn.Parameter, first_id: int):
        super().__init__()
        self.base = base
        self.rows = rows
        self.first_id = first_id

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 [..., L] -> [..., L, dim] in the base embedding's dtype."""
        is_new = ids >= self.first_id
        old = self.base(ids.masked_fill(is_new, 0))
        new = functional.embedding((ids - self.first_id).clamp(min=0), self.rows).to(old.dtype)
        return torch.where(is_new[..., None], new, old)


def add_rows(pipe: Pipeline, tokens: list[str], starts: list[str], vectors: int) -> None:
    """Add tokens of `vectors` rows each to every text encoder; a token's rows start as the mean
    embedding of its text in `starts`.

    Raises `UserError` for an empty text and for tokens that are there already.
    """
    names = [name for token in tokens for name in spell(token, vectors)]
    for tokenizer, encoder in text_parts(pipe):
        embedding, first_id = encoder.get_input_embeddings(), len(tokenizer)
        rows = []
        for text in starts:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            if not ids:
                raise UserError(
                    "--personalize.initializer gives an empty text, so new tokens have nothing to start from; name a word."
                )
            rows += [embedding.weight[ids].float().mean(dim=0)] * vectors
        if tokenizer.add_tokens(names) != len(names):
            raise UserError(
                f"The base model's tokenizer has tokens like {tokens[0]} already; choose a base that is not personalized."
            )
        encoder.set_input_embeddings(
            ConceptEmbedding(embedding, nn.Parameter(torch.stack(rows)), first_id)
        )


def add_lora(unet: UNet2DConditionModel, rank: int, seed: int) -> None:
    """Add LoRA to the frozen UNet's attention projections in float32; B is zero, so the model
    starts unchanged.
    """
    from peft import LoraConfig

    # peft draws from the global generator: its state is put back, so that nothing else depends on
    # this.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(
            LoraConfig(
                r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LORA_TARGETS
            )
        )
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


class DenoisingLoss(nn.Module):
    """The diffusion model's training loss as one module, so that it can be wrapped for data
    parallelism.

    `prompts` are all that will be trained on; `side` is the images' in pixels; `trains_text` says
    whether gradients flow into the text encoders' new rows, otherwise all prompts are encoded once,
    here. `snr_gamma`: min-SNR weighting (Hang et al. 2023, arXiv 2303.09556), None is off.
    """

    def __init__(
        self,
        pipe: Pipeline,
        prompts: list[str],
        side: int,
        trains_text: bool,
        snr_gamma: float | None,
    ):
        from diffusers import DDPMScheduler

        super().__init__()
        self.unet = pipe.unet
        self.encoder = PromptEncoder(pipe, side)
        schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        self.num_timesteps = int(schedule.config.num_train_timesteps)
        self.predicts_v = schedule.config.prediction_type == "v_prediction"
        self.snr_gamma = snr_gamma
        self.register_buffer(
            "alphas_cumprod", schedule.alphas_cumprod.to(pipe.unet.device), persistent=False
        )
        self.register_buffer("prompt_ids", self.encoder.tokenize(prompts), persistent=False)
        self.text = None if trains_text else self.encoder.encode(prompts)

    def forward(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of a `Batch`'s tensors, the samples' losses times their weights, added up: a
        float32 scalar.
        """
        alpha_bar = self.alphas_cumprod[timesteps][:, None, None, None]
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noisy = alpha * latents + sigma * noise
        predicted = self.unet(
            noisy.to(self.unet.dtype), timesteps, **self._conditioning(prompts).unet_inputs()
        ).sample
        target = alpha * noise - sigma * latents if self.predicts_v else noise
        losses = functional.mse_loss(predicted.float(), target, reduction="none").mean(
            dim=(1, 2, 3)
        )
        if self.snr_gamma is not None:
            snr = (alpha_bar / (1 - alpha_bar)).flatten()
            losses = losses * snr.clamp(max=self.snr_gamma) / (snr + 1 if self.predicts_v else snr)
        return (losses * weights).sum()

    def _conditioning(self, prompts: torch.Tensor) -> Conditioning:
        """Each distinct prompt of the batch runs through the text encoders once."""
        if self.text is not None:
            return self.text.rows(prompts)
        distinct, place = torch.unique(prompts, return_inverse=True)
        return self.encoder(self.prompt_ids[distinct]).rows(place)
