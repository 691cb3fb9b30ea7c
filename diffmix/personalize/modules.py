"""What is trained, and the loss: new embedding rows and LoRA beside a frozen Stable Diffusion
(paper, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from diffmix.errors import UserError
from diffmix.generator.base_model import text_parts
from diffmix.generator.device.transfer import sent
from diffmix.generator.prompt_encoder import PromptEncoder
from diffmix.generator.token_vectors import spell

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTokenizer

    from diffmix.generator.base_model import Pipeline

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
"""The UNet's attention projections."""


class ConceptEmbedding(nn.Module):
    """A frozen token embedding, and new rows behind it that are a parameter of their own.

    Ids below `first_id` are looked up in `base`, the others in `rows` (float32 [new tokens, dim]).
    """

    def __init__(self, base: nn.Embedding, rows: nn.Parameter, first_id: int):
        super().__init__()
        self.base = base
        self.rows = rows
        self.first_id = first_id

    def forward(self, ids: Int64[Tensor, "*batch length"]) -> Float[Tensor, "*batch length dim"]:
        """The embeddings of token ids, in the dtype of `base`."""
        is_new = ids >= self.first_id
        old = self.base(ids.masked_fill(is_new, 0))
        new = functional.embedding((ids - self.first_id).clamp(min=0), self.rows).to(old.dtype)
        return torch.where(is_new[..., None], new, old)


def add_rows(pipe: Pipeline, tokens: list[str], starts: Sequence[str | int], vectors: int) -> None:
    """Add tokens to every text encoder, with `vectors` rows each. A token's rows start as the mean
    embedding of its text in `starts`, or as the embedding of the token with that number.

    Raises `UserError` for an empty text, for a number that is no token's, and for tokens that the
    tokenizer has already.
    """
    names = [name for token in tokens for name in spell(token, vectors)]
    for tokenizer, encoder in text_parts(pipe):
        embedding, first_id = encoder.get_input_embeddings(), len(tokenizer)
        rows = []
        for start in starts:
            ids = _token_ids(tokenizer, start)
            rows += [embedding.weight[ids].float().mean(dim=0)] * vectors
        if tokenizer.add_tokens(names) != len(names):
            raise UserError(
                f"The base model's tokenizer has tokens like {tokens[0]} already; choose a base "
                "that is not personalized."
            )
        encoder.set_input_embeddings(
            ConceptEmbedding(embedding, nn.Parameter(torch.stack(rows)), first_id)
        )


def _token_ids(tokenizer: CLIPTokenizer, start: str | int) -> list[int]:
    """The tokens of a text, or the one with the number."""
    if isinstance(start, int):
        if start >= len(tokenizer):
            raise UserError(
                f"--personalize.initializer is {start}, but the base model has {len(tokenizer)} "
                "tokens, counted from 0; choose a smaller number or a text."
            )
        return [start]
    ids = tokenizer(start, add_special_tokens=False).input_ids
    if not ids:
        raise UserError(
            "--personalize.initializer gives an empty text, so new tokens have nothing to start "
            "from; name a word."
        )
    return ids


class InInputsDtype(nn.Linear):
    """A LoRA matrix: float32, rounded to the dtype of its input where it is used. Its gradients are
    float32.
    """

    def forward(self, input: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch out"]:
        return functional.linear(input, self.weight.to(input.dtype))


def add_lora(unet: UNet2DConditionModel, rank: int, seed: int) -> None:
    """Add LoRA in float32 to the attention projections of the frozen UNet, which computes it in its
    own dtype. B is zero, so the model starts unchanged.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LORA_TARGETS
    )
    # peft draws from the global generator. Its state is put back, so that nothing else depends on
    # this.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(config)
    for layer in unet.modules():
        if isinstance(layer, LoraLayer):
            # peft would compute the LoRA in fp32, outside of a GPU's fast units.
            layer.cast_input_dtype_enabled = False
            for matrix in (*layer.lora_A.values(), *layer.lora_B.values()):
                matrix.__class__ = InInputsDtype
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


class DenoisingLoss(nn.Module):
    """The diffusion model's training loss, as one module that can be wrapped for data parallelism.

    With `snr_gamma` samples are weighted by min-SNR (Hang et al. 2023, arXiv 2303.09556).
    """

    def __init__(
        self,
        pipe: Pipeline,
        prompts: list[str],
        side: int,
        trains_text: bool,
        snr_gamma: float | None,
    ):
        """`prompts` are all texts that will be trained on; `side` is the images' side in pixels.

        With `trains_text` gradients flow into the text encoders' new rows. Without it all prompts
        are encoded once, here.
        """
        from diffusers import DDPMScheduler

        super().__init__()
        self.unet = pipe.unet
        self.encoder = PromptEncoder(pipe, side)
        schedule = DDPMScheduler.from_config(pipe.scheduler.config)
        self.num_timesteps = int(schedule.config.num_train_timesteps)
        self.predicts_v = schedule.config.prediction_type == "v_prediction"
        self.snr_gamma = snr_gamma
        alphas_cumprod = schedule.alphas_cumprod.to(pipe.unet.device)
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        self.register_buffer("prompt_ids", self.encoder.tokenize(prompts), persistent=False)
        self.text = None if trains_text else self.encoder.encode(prompts)

    def forward(
        self,
        latents: Float32[Tensor, "n channels height width"],
        noise: Float32[Tensor, "n channels height width"],
        timesteps: Int64[Tensor, " n"],
        prompts: Int64[Tensor, " distinct"],
        places: Int64[Tensor, " n"],
        weights: Float32[Tensor, " n"],
    ) -> Float32[Tensor, ""]:
        """The sum of the samples' losses times their weights. `inputs` gives what is taken here:
        sample i has the prompt `prompts[places[i]]`.
        """
        alpha_bar = self.alphas_cumprod[timesteps][:, None, None, None]
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noisy = alpha * latents + sigma * noise
        known = self.text
        text = self.encoder(self.prompt_ids[prompts]) if known is None else known.rows(prompts)
        told = text.rows(places).unet_inputs()
        predicted = self.unet(noisy.to(self.unet.dtype), timesteps, **told).sample
        target = alpha * noise - sigma * latents if self.predicts_v else noise
        errors = functional.mse_loss(predicted.float(), target, reduction="none")
        losses = errors.mean(dim=(1, 2, 3))
        if self.snr_gamma is not None:
            snr = (alpha_bar / (1 - alpha_bar)).flatten()
            losses = losses * snr.clamp(max=self.snr_gamma) / (snr + 1 if self.predicts_v else snr)
        return (losses * weights).sum()


def inputs(
    batch: Sequence[Tensor], device: torch.device | str, padded: bool = False
) -> list[Tensor]:
    """A `Batch`'s tensors as `DenoisingLoss` takes them, on its device. Each distinct prompt runs
    through the text encoders once; with `padded` there are as many as samples, the last of them
    again and again.

    Which prompts are distinct is found here, on the CPU: a GPU would have to be waited for.
    """
    latents, noise, timesteps, prompts, weights = batch
    distinct, places = torch.unique(prompts, return_inverse=True)
    if padded:
        distinct = torch.cat([distinct, distinct[-1:].expand(len(prompts) - len(distinct))])
    taken = (latents, noise, timesteps, distinct, places, weights)
    return [sent(tensor, device) for tensor in taken]


def trained_rows(
    pipe: Pipeline, tokens: Sequence[str], vectors: int
) -> list[dict[str, Float[Tensor, "vectors dim"]]]:
    """Token -> its rows, of each text encoder; without tokens a single empty one."""
    if not tokens:
        return [{}]
    found = []
    for _, encoder in text_parts(pipe):
        rows = encoder.get_input_embeddings().rows.detach().split(vectors)
        found.append(dict(zip(tokens, rows, strict=True)))
    return found


def trained_lora(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The UNet's LoRA in diffusers' naming."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    return convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
