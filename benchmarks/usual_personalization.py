"""Personalization the usual way, in stock diffusers and peft, as the paper's code does it. Ours is
measured against it.

Every step decodes and crops the images, and encodes images and prompts. The whole embedding table
is in the optimizer; after each step the rows that are not new are put back.
"""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from diffmix.generator.concept import prompt

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

    from diffmix.config import PersonalizeConfig
    from diffmix.datasets.real import RealSet


class Photos(torch.utils.data.Dataset):
    """The pixels (float32 [3, side, side] in [-1, 1]) and the label of each image, which is decoded
    and cropped at random when it is asked for.
    """

    def __init__(self, real: RealSet, side: int, flip: bool):
        from torchvision import transforms

        self.real = real
        flips = [transforms.RandomHorizontalFlip()] if flip else []
        scale = [transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
        crop = [transforms.Resize(side), transforms.RandomCrop(side)]
        self.transform = transforms.Compose([*crop, *flips, *scale])

    def __len__(self) -> int:
        return len(self.real)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        image = Image.open(io.BytesIO(self.real.image_bytes(index))).convert("RGB")
        return self.transform(image), int(self.real.labels[index])


def train(
    pipe: StableDiffusionPipeline,
    real: RealSet,
    config: PersonalizeConfig,
    side: int,
    seed: int,
    device: str,
    dtype: torch.dtype,
) -> tuple[dict[str, str], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Train tokens and LoRA for `config.steps` of `config.batch_size`. Gives class name -> token,
    token -> rows, and the LoRA.
    """
    from diffusers import DDPMScheduler
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(seed)
    unet, vae, encoder, tokenizer = pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    tokens = {name: f"<class_{label}>" for label, name in enumerate(real.class_names)}
    start = tokenizer(
        prompt(str(config.initializer), None, "", real.superclass), add_special_tokens=False
    ).input_ids
    tokenizer.add_tokens(list(tokens.values()))
    new = tokenizer.convert_tokens_to_ids(list(tokens.values()))
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for part in (unet, vae, encoder):
        part.requires_grad_(False)
        part.to(device, dtype)
    table = encoder.get_input_embeddings()
    table.to(torch.float32)  # what is trained is trained in fp32
    with torch.no_grad():
        table.weight[new] = table.weight[start].mean(dim=0)
    table.weight.requires_grad_(True)
    original = table.weight.detach().clone()
    others = torch.ones(len(tokenizer), dtype=torch.bool)
    others[new] = False
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_rank,
            init_lora_weights="gaussian",
            target_modules=targets,
        )
    )
    lora = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in lora:
        parameter.data = parameter.data.float()
    groups = [
        {"params": [table.weight], "lr": config.token_lr, "weight_decay": 0.0},
        {"params": lora, "lr": config.lora_lr, "weight_decay": config.weight_decay},
    ]
    optimizer = torch.optim.AdamW(groups)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    workers = 4 if device == "cuda" else 0
    loader = torch.utils.data.DataLoader(
        Photos(real, side, config.flip),
        config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    unet.train()
    for pixels, labels in itertools.islice(_again_and_again(loader), config.steps):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                latents = (
                    vae.encode(pixels.to(device, dtype)).latent_dist.sample().float()
                    * vae.config.scaling_factor
                )
            noise = torch.randn_like(latents)
            timesteps = torch.randint(
                0, schedule.config.num_train_timesteps, (len(latents),), device=device
            )
            noisy = schedule.add_noise(latents, noise, timesteps)
            names = [real.class_names[label] for label in labels]
            texts = [
                prompt(config.prompts[0], tokens[name], name, real.superclass) for name in names
            ]
            ids = tokenizer(
                texts,
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            hidden = encoder(ids.to(device))[0]
            predicted = unet(noisy.to(dtype), timesteps, encoder_hidden_states=hidden).sample
            target = (
                noise
                if schedule.config.prediction_type == "epsilon"
                else schedule.get_velocity(latents, noise, timesteps)
            )
            loss = functional.mse_loss(predicted.float(), target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([table.weight, *lora], config.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        with torch.no_grad():
            table.weight[others] = original[others]
    rows = {
        token: table.weight[[row]].detach() for token, row in zip(tokens.values(), new, strict=True)
    }
    return tokens, rows, convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))


def _again_and_again(loader: torch.utils.data.DataLoader):
    while True:
        yield from loader
