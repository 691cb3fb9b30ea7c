"""Every option of a run in one typed tree: its default, its unit, and where the paper or its code has it from.

The docstring under a field is what `--help` prints. `method.md`-style tags: [P] the paper, [C] its code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from diffmix.errors import UserError

Strategy = Literal["real-gen", "real-aug", "real-mix", "ti-aug", "ti-mix", "diff-gen", "diff-aug", "diff-mix"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class DataConfig:
    """Where the labelled photographs are."""

    train: str = ""
    """Training images: a folder with one sub-folder per class, a Parquet file or folder, a Hugging Face data set (a
    saved folder or a hub id), `nano`, the embedded data set, or `NAME:FOLDER`, a local copy of a published data set in its
    publisher's layout, such as `cub:/data/CUB_200_2011` (aircraft, cars, cub, dogs, flowers, flowers-half, food101, pets,
    voc, voc-main, waterbirds)."""
    test: str | None = None
    """Test images, in any of the forms of `train`. None: the data set's own test split, or else a stratified part of `train`."""
    val_fraction: float = 0.1
    """Share of the training images of each class that is held out to pick the checkpoint (0 to below 1)."""
    test_fraction: float = 0.2
    """Share of each class that becomes the test set where the data set has none (0 to below 1)."""
    superclass: str | None = None
    """The word for what all classes are, such as `bird`. None: the data set's own word, else `object`."""
    shots: int | None = None
    """Keep this many training images per class, drawn with replacement where a class has fewer. None: all. [C] 1, 5, 10"""
    imbalance_factor: float | None = None
    """Long-tailed training set: class sizes fall from the mean count to this share of it (0 to 1]. None: as it is. [C] 0.01"""
    image_column: str = "image"
    """Column of the images in a Parquet or Hugging Face data set."""
    label_column: str = "label"
    """Column of the labels in a Parquet or Hugging Face data set: integers or class names."""
    max_bad_images: int = 20
    """How many unreadable images may be skipped (each is named) before the run stops with an error."""
    max_pixels: int = 100_000_000
    """An image of more pixels than this counts as unreadable (protects against decompression bombs)."""
    seed: int = 0
    """Seed of the test, validation, shot and long-tail splits; apart from `run.seed` so that runs compare on one split."""


@dataclass
class ModelConfig:
    """The text-to-image model and how it is run."""

    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Base model: a diffusers folder, a hub id, or `nano`, the embedded one."""
    revision: str | None = None
    """Revision of a hub model. None: the hub's default."""
    resolution: int | None = None
    """Side of the square that images are resized to for the diffusion model, in pixels. None: the model's own size."""
    precision: Precision = "auto"
    """Number format of the diffusion model: `auto` is bf16 on GPUs that have it, fp16 on older ones, fp32 on CPUs."""
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """Attention kernels: `auto` times both once on the real shapes and keeps the faster."""
    compile: bool = False
    """Compile the UNet's blocks with torch.compile when a mixer starts (pays off after a few hundred mixes on a GPU)."""
    tiny_vae: str | None = None
    """Folder of an AutoencoderTiny (TAESD) that mixers use in place of the base's VAE: less work, softer detail. None: off."""


@dataclass
class PersonalizeConfig:
    """Teaching the base model the user's classes (paper, section 3.2)."""

    concept: str | None = None
    """Folder of a finished concept to use instead of training one. None: train, or reuse the run folder's own."""
    steps: int = 35_000
    """Optimiser steps. [C] 35,000"""
    batch_size: int = 2
    """Images per worker and step. [C] 2"""
    gradient_accumulation_steps: int = 1
    """Batches whose gradients are added up before one optimiser step."""
    tokens: bool = True
    """Train one new token per class (textual inversion)."""
    lora: bool = True
    """Train LoRA on the UNet's attention projections."""
    lora_rank: int = 10
    """Rank of the LoRA matrices. [C] 10"""
    lora_lr: float = 5e-5
    """Learning rate of the LoRA matrices. [C] 5e-5"""
    token_lr: float = 5e-5
    """Learning rate of the new embedding rows. [C] 5e-5"""
    vectors_per_token: int = 1
    """Embedding rows per class; the paper uses 1."""
    initializer: str = "{superclass}"
    """Text whose mean embedding starts each class's rows; may hold {superclass} and {class_name}."""
    prompts: tuple[str, ...] = ("a photo of a {token} {superclass}",)
    """Prompt templates; one is drawn per image and step, the first is the one that mixes are made with. [C]"""
    prompt_dropout: float = 0.0
    """Probability of training on the empty prompt instead, which keeps classifier-free guidance calibrated (0 to 1)."""
    flip: bool = True
    """Flip training images at random. [C]"""
    class_balanced: bool = False
    """Draw classes uniformly instead of images uniformly (long-tailed data). [C]"""
    snr_gamma: float | None = None
    """Min-SNR loss weighting's gamma, 5 is usual. None: off."""
    noise_offset: float = 0.0
    """Standard deviation of a per-channel offset added to the noise; 0 is off."""
    weight_decay: float = 1e-2
    """AdamW's weight decay, on the LoRA matrices only."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    gradient_checkpointing: bool = False
    """Trade UNet recomputation for memory."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""


@dataclass
class MixConfig:
    """What is mixed with what, and how (paper, sections 3.3 and 3.4)."""

    strategy: Strategy = "diff-mix"
    """{real, ti, diff}-{gen, aug, mix}: base model, tokens only, or tokens + LoRA; from noise, same class, or other class."""
    strength: tuple[float, ...] = (0.7,)
    """Share of the noise schedule that is run, in (0, 1]; several values: drawn uniformly for each mix. [P]"""
    strength_beta: tuple[float, float] | None = None
    """Draw strengths from Beta(a, b) clipped to [0.1, 0.9] instead of from `strength`. None: off."""
    multiplier: float = 5.0
    """Mixes per real training image. [C] 5"""
    count: int | None = None
    """Mixes in all; overrides `multiplier`. None: use `multiplier`."""
    gamma: float = 0.5
    """Exponent of the soft label: the target class gets strength ** gamma. [P] 0.5 or 0.8"""
    soft_scale: float = 1.0
    """Factor on a mix's whole label, (0, 1]. [C] 0.9 for CUB and Flowers, 1.0 for long-tailed CUB"""
    synthetic_p: float = 0.1
    """Probability that a training sample is a mix, [0, 1]. [C] 0.1; 0.3 for few shots and long tails"""
    guidance_scale: float = 7.5
    """Classifier-free guidance; 1 is off. [C] 7.5"""
    num_inference_steps: int = 25
    """Denoising steps of the full schedule; about strength times as many are run. [C] 25"""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Part of the schedule, from noise (0) to image (1), in which guidance is on; a step outside it costs half."""
    sampler: Literal["dpm", "lcm", "tcd"] = "dpm"
    """DPM-Solver++, or a few-step sampler for a base or a `sampler_lora` that was distilled for it. [C] dpm"""
    sampler_lora: str | None = None
    """LoRA of a few-step sampler (LCM-LoRA, Hyper-SD, TCD): a safetensors file, or a folder with one. None: off."""
    negative_prompt: str = ""
    """Prompt that guidance leads away from."""
    referred_classes: int | None = None
    """Number of target classes that each source class may become, drawn once by seed. None: all."""
    source_sampling: Literal["class", "image"] = "class"
    """Draw the source class uniformly and then an image of it, or uniformly over all images (long tails). [C]"""
    target_sampling: Literal["uniform", "inverse"] = "uniform"
    """Draw target classes uniformly, or with probability proportional to 1 / (class size + 1) (long tails). [C]"""
    batch: int | Literal["auto"] = 16
    """Mixes in one chunk: the mixer's batch, and the unit of retry and resume. `auto`: as many as keep a mixer's device
    busy and fit in its memory, measured when the run starts."""
    image_format: Literal["jpeg", "png", "webp"] = "jpeg"
    """Format that mixes are stored in."""
    image_quality: int = 95
    """Quality of JPEG and WebP files, 1 to 100."""


@dataclass
class TrainConfig:
    """The classifier and its training recipe."""

    model_name: str = "resnet50"
    """Architecture: a timm model name."""
    pretrained: bool = True
    """Start from timm's pre-trained weights (downloaded from the hub), or from `checkpoint_path`."""
    checkpoint_path: str | None = None
    """Local weights to start from instead of the hub's; a head of another size is left out. None: off."""
    resolution: int = 224
    """Side of the classifier's input in pixels. [C] 224, 384 or 448"""
    resize: int | None = None
    """Size that images are resized to before the crop. None: resolution / 0.875. [C] 256 for 224, 512 for 448"""
    crop_padding: int = 8
    """Padding of the random crop in pixels. [C] 8"""
    flip: bool = True
    """Flip training images at random."""
    rotate: float = 0.0
    """Largest random rotation in degrees."""
    translate: float = 0.0
    """Largest random shift as a share of the side."""
    scale: float = 0.0
    """Largest random change of size as a share: 0.2 is 0.8 to 1.2."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation; hue gets a quarter of it."""
    invert: float = 0.0
    """Probability of inverting the colours."""
    erase: float = 0.0
    """Probability of erasing a random rectangle."""
    mixup_alpha: float = 0.0
    """MixUp's Beta parameter; 0 is off. [C] 1.0 as a baseline"""
    cutmix_alpha: float = 0.0
    """CutMix's Beta parameter; 0 is off. [C] 1.0 as a baseline"""
    mix_probability: float = 0.5
    """Probability that MixUp or CutMix is applied to a batch, where one is on. [C] 0.5"""
    epochs: int = 120
    """Passes over the real training images. [C] 120"""
    batch_size: int = 64
    """Samples per step over all workers together. [C] 256, 64 or 32"""
    lr: float = 0.05
    """Peak learning rate. [C] .005 to .1 by data set"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimiser; SGD has Nesterov's momentum off. [C] sgd"""
    momentum: float = 0.9
    """SGD's momentum. [C] 0.9"""
    weight_decay: float = 5e-4
    """Weight decay. [C] 5e-4"""
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises linearly; a cosine follows. [C] 0.1"""
    label_smoothing: float = 0.1
    """Share of the label spread over all classes, on real images and mixes. [C] 0.1"""
    gradient_clip: float = 0.0
    """Gradient norm above which gradients are scaled down; 0 is off."""
    precision: Precision = "auto"
    """Number format of training: `auto` is bf16 on GPUs that have it, fp16 on older ones, fp32 on CPUs."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: what is split over the workers (1 optimiser, 2 + gradients, 3 + weights)."""
    eval_every: int = 1
    """Epochs between validations (each also writes a checkpoint)."""
    loader_workers: int = 2
    """Processes per train worker that decode images; 0 decodes in the worker itself."""
    baseline: bool = False
    """Also train the same classifier without mixes, beside personalisation where there is room, to compare with."""


@dataclass
class PlacementConfig:
    """How the cluster's GPUs are shared out. On a machine without CUDA these are logical GPUs and run on the CPU."""

    mixers: tuple[int, ...] = (1,)
    """Mixer actors: a number, or the least and the most of an autoscaling pool."""
    trainers: int = 1
    """Train workers."""
    personalizers: int = 1
    """Personalisation workers. They are done before mixers start, so there may be as many as mixers and train workers together."""
    gpus_per_mixer: float = 1.0
    """GPUs that Ray reserves for a mixer."""
    gpus_per_trainer: float = 1.0
    """GPUs that Ray reserves for a train worker."""
    cpus_per_mixer: float = 1.0
    """CPUs that Ray reserves for a mixer."""
    cpus_per_trainer: float = 1.0
    """CPUs that Ray reserves for a train worker."""
    separate: bool = False
    """Keep mixers on nodes labelled ray-subcluster=gen and train workers on nodes labelled ray-subcluster=train."""
    max_failures: int = 3
    """How often a broken train worker group is started again from its last checkpoint; -1 is without limit."""


@dataclass
class RunConfig:
    """The job as a whole."""

    mode: Literal["overlapped", "staged"] = "overlapped"
    """Train while mixes are being made, or make all mixes first (the exactly reproducible way)."""
    seed: int = 0
    """Seed of the plan, of personalisation and of training."""
    address: str | None = None
    """Ray cluster: None starts one on this machine, or joins the one that the job was submitted to; `auto` joins a running one."""
    train_after: float = 0.05
    """Overlapped mode: share of the planned mixes that must be there before training starts, [0, 1]."""
    oracle: str | None = None
    """Folder of a classifier that is only used to report the share of mixes that show their target class. None: off."""


@dataclass
class Config:
    """All options. `out` is the run folder: everything that the run makes goes there, and a second run goes on from it."""

    out: str = ""
    """Run folder: a local path, or s3:// or gs:// for a cluster without a shared disk."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    personalize: PersonalizeConfig = field(default_factory=PersonalizeConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    run: RunConfig = field(default_factory=RunConfig)


def to_dict(config: object) -> dict:
    """The tree as plain dicts, lists, numbers and strings, ready for YAML and JSON."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))  # type: ignore[call-overload,return-value]


def check(config: Config) -> None:
    """Raise `UserError` for a value that cannot be meant, naming the option, the value and what it may be."""

    def require(ok: bool, option: str, value: object, allowed: str) -> None:
        if not ok:
            raise UserError(f"--{option} is {value}, but it must be {allowed}.")

    data, mix, train, personalize, place = config.data, config.mix, config.train, config.personalize, config.placement
    for name in ("val_fraction", "test_fraction"):
        require(0 <= getattr(data, name) < 1, f"data.{name}", getattr(data, name), "at least 0 and below 1")
    require(data.shots is None or data.shots >= 1, "data.shots", data.shots, "at least 1")
    factor = data.imbalance_factor
    require(factor is None or 0 < factor <= 1, "data.imbalance_factor", factor, "above 0 and at most 1")
    require(data.max_pixels >= 1, "data.max_pixels", data.max_pixels, "at least 1")
    require(data.max_bad_images >= 0, "data.max_bad_images", data.max_bad_images, "0 or more")
    require(len(mix.strength) > 0, "mix.strength", "empty", "one or more numbers above 0 and at most 1")
    for strength in mix.strength:
        require(0 < strength <= 1, "mix.strength", strength, "above 0 and at most 1")
        require(
            int(mix.num_inference_steps * strength) >= 1,
            "mix.strength",
            strength,
            f"at least {1 / max(mix.num_inference_steps, 1):.3g}, or no step of mix.num_inference_steps is run",
        )
    if mix.strength_beta is not None:
        require(min(mix.strength_beta) > 0, "mix.strength_beta", mix.strength_beta, "two numbers above 0")
    require(0 <= mix.synthetic_p <= 1, "mix.synthetic_p", mix.synthetic_p, "a probability from 0 to 1")
    require(mix.gamma > 0, "mix.gamma", mix.gamma, "above 0")
    require(0 < mix.soft_scale <= 1, "mix.soft_scale", mix.soft_scale, "above 0 and at most 1")
    require(mix.multiplier > 0, "mix.multiplier", mix.multiplier, "above 0")
    require(mix.guidance_scale >= 0, "mix.guidance_scale", mix.guidance_scale, "0 or more")
    low, high = mix.guidance_interval
    require(0 <= low <= high <= 1, "mix.guidance_interval", mix.guidance_interval, "two rising numbers from 0 to 1")
    few = mix.sampler != "dpm"
    require(few or mix.sampler_lora is None, "mix.sampler", mix.sampler, "lcm or tcd where mix.sampler_lora is set")
    most = 50  # the schedule that these samplers were distilled on
    require(
        not few or mix.num_inference_steps <= most, "mix.num_inference_steps", mix.num_inference_steps, f"at most {most} for {mix.sampler}"
    )
    require(1 <= mix.image_quality <= 100, "mix.image_quality", mix.image_quality, "from 1 to 100")
    for name in ("count", "referred_classes"):
        value = getattr(mix, name)
        require(value is None or value >= 1, f"mix.{name}", value, "at least 1")
    at_least_one = {
        "mix": ("num_inference_steps",) if mix.batch == "auto" else ("num_inference_steps", "batch"),
        "train": ("epochs", "batch_size", "resolution", "eval_every"),
        "personalize": ("steps", "batch_size", "lora_rank", "vectors_per_token", "gradient_accumulation_steps", "checkpoint_every"),
        "placement": ("trainers", "personalizers"),
    }
    for group, names in at_least_one.items():
        for name in names:
            value = getattr(getattr(config, group), name)
            require(value >= 1, f"{group}.{name}", value, "at least 1")
    require(train.lr > 0, "train.lr", train.lr, "above 0")
    if train.mixup_alpha or train.cutmix_alpha:
        even = train.batch_size % (2 * place.trainers) == 0
        require(even, "train.batch_size", train.batch_size, "even for each train worker where MixUp or CutMix is on")
    require(0 <= train.warmup_fraction < 1, "train.warmup_fraction", train.warmup_fraction, "at least 0 and below 1")
    require(0 <= train.label_smoothing < 1, "train.label_smoothing", train.label_smoothing, "at least 0 and below 1")
    require(train.loader_workers >= 0, "train.loader_workers", train.loader_workers, "0 or more")
    require(
        train.batch_size % place.trainers == 0, "train.batch_size", train.batch_size, f"a multiple of placement.trainers, {place.trainers}"
    )
    require(personalize.tokens or personalize.lora, "personalize.tokens", False, "on where personalize.lora is off")
    require(
        len(place.mixers) in (1, 2) and 1 <= place.mixers[0] <= place.mixers[-1],
        "placement.mixers",
        place.mixers,
        "a number from 1, or a least and a most",
    )
    require(0 <= config.run.train_after <= 1, "run.train_after", config.run.train_after, "from 0 to 1")
