"""Every option of a run in one typed tree: its default, its unit, and where the paper or its code
has it from.

The docstring under a field is what `--help` prints. `method.md`-style tags: [P] the paper, [C] its
code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

Strategy = Literal[
    "real-gen", "real-aug", "real-mix", "ti-aug", "ti-mix", "diff-gen", "diff-aug", "diff-mix"
]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class DataConfig:
    """Where the labeled photographs are."""

    train: str = ""
    """Training images: a folder with one sub-folder per class, a Parquet file or folder, a Hugging
    Face data set (a saved folder or a hub id), `nano`, the embedded data set, or `NAME:FOLDER`, a
    local copy of a published data set in its publisher's layout, such as `cub:/data/CUB_200_2011`
    (aircraft, cars, cub, dogs, flowers, flowers-half, food101, pets, voc, voc-main, waterbirds).
    """
    test: str | None = None
    """Test images, in any of the forms of `train`. None: the data set's own test split, or else a
    stratified part of `train`.
    """
    val_fraction: float = 0.1
    """Share of the training images of each class that is held out to pick the checkpoint (0 to
    below 1).
    """
    test_fraction: float = 0.2
    """Share of each class that becomes the test set where the data set has none (0 to below 1)."""
    superclass: str | None = None
    """The word for what all classes are, such as `bird`. None: the data set's own word, else
    `object`.
    """
    shots: int | None = None
    """Keep this many training images per class, drawn with replacement where a class has fewer.
    None: all. [C] 1, 5, 10
    """
    imbalance_factor: float | None = None
    """Long-tailed training set: class sizes fall from the mean count to this share of it (0 to 1].
    None: as it is. [C] 0.01
    """
    image_column: str = "image"
    """Column of the images in a Parquet or Hugging Face data set."""
    label_column: str = "label"
    """Column of the labels in a Parquet or Hugging Face data set: integers or class names."""
    max_bad_images: int = 20
    """How many unreadable images may be skipped (each is named) before the run stops with an error."""
    max_pixels: int = 100_000_000
    """An image of more pixels than this counts as unreadable (protects against decompression
    bombs).
    """
    seed: int = 0
    """Seed of the test, validation, shot and long-tail splits; apart from `run.seed` so that runs
    compare on one split.
    """


@dataclass
class ModelConfig:
    """The text-to-image model and how it is run."""

    base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """Base model: a diffusers folder, a hub id, or `nano`, the embedded one."""
    revision: str | None = None
    """Revision of a hub model. None: the hub's default."""
    resolution: int | None = None
    """Side of the square that images are resized to for the diffusion model, in pixels. None: the
    model's own size.
    """
    precision: Precision = "auto"
    """Number format of the diffusion model: `auto` is bf16 on GPUs that have it, fp16 on older
    ones, fp32 on CPUs.
    """
    attention: Literal["auto", "xformers", "sdpa"] = "auto"
    """Attention kernels: `auto` times both once on the real shapes and keeps the faster."""
    compile: bool = False
    """Compile the UNet's blocks with torch.compile when a mixer starts (pays off after a few
    hundred mixes on a GPU).
    """
    tiny_vae: str | None = None
    """Folder of an AutoencoderTiny (TAESD) that mixers use in place of the base's VAE: less work,
    softer detail. None: off.
    """


@dataclass
class PersonalizeConfig:
    """Teaching the base model the user's classes (paper, section 3.2)."""

    concept: str | None = None
    """Folder of a finished concept to use instead of training one. None: train, or reuse the run
    folder's own.
    """
    steps: int = 35_000
    """Optimizer steps. [C] 35,000"""
    batch_size: int = 2
    """Images per worker and step. [C] 2"""
    gradient_accumulation_steps: int = 1
    """Batches whose gradients are added up before one optimizer step."""
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
    """Prompt templates; one is drawn per image and step, the first is the one that mixes are made
    with. [C]
    """
    prompt_dropout: float = 0.0
    """Probability of training on the empty prompt instead, which keeps classifier-free guidance
    calibrated (0 to 1).
    """
    flip: bool = True
    """Flip training images at random. [C]"""
    class_balanced: bool = False
    """Draw classes uniformly instead of images uniformly (long-tailed data). [C]"""
    snr_gamma: float | None = None
    """Min-SNR loss weighting's gamma, 5 is usual. None: off."""
    noise_offset: float = 0.0
    """Standard deviation of a per-channel offset added to the noise; 0 is off."""
    prior_weight: float = 0.0
    """Weight of prior preservation (DreamBooth): the loss on images of the superclass that the base
    model made; 1 is usual. 0: off.
    """
    prior_images: int = 200
    """Images of the superclass that the base model makes for prior preservation, once, into the run
    folder's `prior/`.
    """
    use_8bit_adam: bool = False
    """Keep AdamW's state in 8 bits, which needs bitsandbytes; saves memory with large bases and
    ranks.
    """
    weight_decay: float = 1e-2
    """AdamW's weight decay, on the LoRA matrices only."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    gradient_checkpointing: bool = False
    """Trade UNet recomputation for memory."""
    large_batch: int = 1
    """Fold this many steps into one: batch_size times this, steps divided by this, learning rates
    and weight decay times its square root.
    """
    compile: bool = False
    """Compile the UNet's blocks with torch.compile (on a GPU, pays off after some thousand steps)."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""


@dataclass
class MixConfig:
    """What is mixed with what, and how (paper, sections 3.3 and 3.4)."""

    strategy: Strategy = "diff-mix"
    """{real, ti, diff}-{gen, aug, mix}: base model, tokens only, or tokens + LoRA; from noise, same
    class, or other class.
    """
    strength: tuple[float, ...] = (0.7,)
    """Share of the noise schedule that is run, in (0, 1]; several values: drawn uniformly for each
    mix. [P]
    """
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
    """Probability that a training sample is a mix, [0, 1]. [C] 0.1; 0.3 for few shots and long
    tails
    """
    guidance_scale: float = 7.5
    """Classifier-free guidance; 1 is off. [C] 7.5"""
    num_inference_steps: int = 25
    """Denoising steps of the full schedule; about strength times as many are run. [C] 25"""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Part of the schedule, from noise (0) to image (1), in which guidance is on; a step outside it
    costs half.
    """
    sampler: Literal["dpm", "lcm", "tcd"] = "dpm"
    """DPM-Solver++, or a few-step sampler for a base or a `sampler_lora` that was distilled for it.
    [C] dpm
    """
    sampler_lora: str | None = None
    """LoRA of a few-step sampler (LCM-LoRA, Hyper-SD, TCD): a safetensors file, or a folder with
    one. None: off.
    """
    negative_prompt: str = ""
    """Prompt that guidance leads away from."""
    referred_classes: int | None = None
    """Number of target classes that each source class may become, drawn once by seed. None: all."""
    source_sampling: Literal["class", "image"] = "class"
    """Draw the source class uniformly and then an image of it, or uniformly over all images (long
    tails). [C]
    """
    target_sampling: Literal["uniform", "inverse"] = "uniform"
    """Draw target classes uniformly, or with probability proportional to 1 / (class size + 1) (long
    tails). [C]
    """
    batch: int | Literal["auto"] = 16
    """Mixes in one chunk: the mixer's batch, and the unit of retry and resume. `auto`: as many as
    keep a mixer's device busy and fit in its memory, measured when the run starts.
    """
    image_format: Literal["jpeg", "png", "webp"] = "jpeg"
    """Format that mixes are stored in."""
    image_quality: int = 95
    """Quality of JPEG and WebP files, 1 to 100."""


@dataclass
class GateConfig:
    """Dropping mixes that show nothing of the kind: a CLIP scores each mix by "with" against
    "without" the superclass.
    """

    clip: str | None = None
    """CLIP model: a folder or hub id for transformers, such as `openai/clip-vit-base-patch32` [C],
    or `open_clip:NAME:WEIGHTS`, where WEIGHTS is a tag or a file (also `open_clip:hf-hub:ID`,
    `open_clip:local-dir:FOLDER`). None: no gate.
    """
    threshold: float | None = None
    """Least score of a mix that is used, 0 to 1; decided in the mixer. None: `quantile` decides."""
    quantile: float = 0.1
    """Share of mixes, those with the lowest scores, that is dropped: at least 0 and below 1. Needs
    all scores, so it is decided when all mixes are there: in `--run.mode staged`, by `diffmix
    synthesize` and by `diffmix filter`. [P] 0.1
    """
    prompts: tuple[str, str] = (
        "a photo with a {superclass} on it",
        "a photo without a {superclass} on it",
    )
    """What a good mix is called and what a bad one: the score is the softmax's probability of the
    first. [C]
    """


@dataclass
class EvaluateConfig:
    """What is measured at the end: how the test set's figures are grouped, and what `diffmix
    evaluate` says of mixes.
    """

    mixes: int = 0
    """Number of stored mixes, drawn at random by `run.seed`, whose faithfulness and diversity are
    measured; 0 is off. A Frechet distance needs some thousands.
    """
    features: str = "clip"
    """What distances between images are measured with: `clip`, the image tower of `gate.clip`, or a
    timm model with its pre-trained weights, such as `inception_v3` (also timm's `hf-hub:ID` and
    `local-dir:FOLDER`).
    """
    many_above: int = 20
    """A class with more training images than this counts as many-shot. [C] 20 for CUB, 30 for
    Flowers
    """
    few_below: int = 5
    """A class with fewer training images than this counts as few-shot, the rest as medium-shot. [C]
    5 for CUB, 10 for Flowers
    """


@dataclass
class TrainConfig:
    """The classifier and its training recipe."""

    model_name: str = "resnet50"
    """Architecture: a timm model name."""
    pretrained: bool = True
    """Start from timm's pre-trained weights (downloaded from the hub), or from `checkpoint_path`."""
    checkpoint_path: str | None = None
    """Local weights to start from instead of the hub's; a head of another size is left out. None:
    off.
    """
    resolution: int = 224
    """Side of the classifier's input in pixels. [C] 224, 384 or 448"""
    resize: int | None = None
    """Size that images are resized to before the crop. None: resolution / 0.875. [C] 256 for 224,
    512 for 448
    """
    resized_crop: bool = False
    """Train on random parts of 8 to 100 % of the image, resized, instead of the padded crop. [C]
    long tails only
    """
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
    """Strength of random brightness, contrast and saturation; hue gets a quarter of it, where `hue`
    is not set.
    """
    hue: float | None = None
    """Largest random shift of the hue, 0 to 0.5. None: a quarter of `color_jitter`. [C] 0 for long
    tails
    """
    invert: float = 0.0
    """Probability of inverting the colors."""
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
    """Peak learning rate. [C] .005 to .1 by data set for ResNets, 1e-5 to .001 for ViTs"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer; SGD has Nesterov's momentum off. [C] sgd"""
    momentum: float = 0.9
    """SGD's momentum. [C] 0.9"""
    weight_decay: float = 5e-4
    """Weight decay. [C] 5e-4"""
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises linearly; a cosine follows. [C] 0.1"""
    lr_drop_epochs: tuple[int, ...] = ()
    """Instead of the cosine: epochs, from 0, at which the learning rate falls to a hundredth. [C]
    160 180 for long tails
    """
    label_smoothing: float = 0.1
    """Share of the label spread over all classes. [C] 0.1; 0 for long tails"""
    smooth_mixes: bool = True
    """Smooth the labels of mixes too, although they are soft already. [C] True"""
    loss: Literal["ce", "ldam", "balanced-softmax", "focal"] = "ce"
    """Loss: cross-entropy, or one for long tails. `ldam` also puts a cosine head on the model,
    which its margins need.
    """
    ldam_max_margin: float = 0.5
    """LDAM's margin of the smallest class. [C] 0.5"""
    ldam_scale: float = 30.0
    """Factor of LDAM's cosine logits. [C] 30"""
    focal_gamma: float = 2.0
    """Focal loss's exponent; 0 is cross-entropy. 2 in its paper"""
    reweight: Literal["none", "class-balanced", "drw"] = "none"
    """Weigh classes by their effective number of images: always (`class-balanced`), or from
    `drw_epoch` on (`drw`).
    """
    reweight_beta: float = 0.9999
    """Beta of the effective number (1 - beta^n) / (1 - beta), in [0, 1); 0 weighs all classes
    alike. [C] 0.9999
    """
    drw_epoch: int = 160
    """First epoch, counted from 0, that `reweight: drw` weighs. [C] 160"""
    cmo: bool = False
    """CMO: paste boxes of class-balanced real images into the batch's images, as CutMix does (long
    tails).
    """
    cmo_probability: float = 0.5
    """Probability that CMO pastes into a batch. [C] 0.5"""
    cmo_skip: tuple[int, int] = (4, 3)
    """Epochs without CMO at the start and at the end. [C] 4 3"""
    freeze_epochs: int = 0
    """First epochs in which the head alone is trained and the backbone, its statistics included,
    stays as it is.
    """
    protocol: Literal["validation", "reference"] = "validation"
    """Which images pick the epoch: the held-out ones, or the test set as in the reference
    (optimistic: the report says so).
    """
    gradient_clip: float = 0.0
    """Gradient norm above which gradients are scaled down; 0 is off."""
    precision: Precision = "auto"
    """Number format of training: `auto` is bf16 on GPUs that have it, fp16 on older ones, fp32 on
    CPUs.
    """
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: what is split over the workers (1 optimizer, 2 + gradients, 3 +
    weights).
    """
    eval_every: int = 1
    """Epochs between validations (each also writes a checkpoint)."""
    loader_workers: int = 2
    """Processes per train worker that decode images; 0 decodes in the worker itself."""
    baseline: bool = False
    """Also train the same classifier without mixes, beside personalization where there is room, to
    compare with.
    """


@dataclass
class PlacementConfig:
    """How the cluster's GPUs are shared out. On a machine without CUDA these are logical GPUs and
    run on the CPU.
    """

    mixers: tuple[int, ...] = (1,)
    """Mixer actors: a number, or the least and the most of an autoscaling pool."""
    trainers: int = 1
    """Train workers."""
    personalizers: int = 1
    """Personalization workers. They are done before mixers start, so there may be as many as mixers
    and train workers together.
    """
    gpus_per_mixer: float = 1.0
    """GPUs that Ray reserves for a mixer."""
    gpus_per_trainer: float = 1.0
    """GPUs that Ray reserves for a train worker."""
    cpus_per_mixer: float = 1.0
    """CPUs that Ray reserves for a mixer."""
    cpus_per_trainer: float = 1.0
    """CPUs that Ray reserves for a train worker."""
    auto: bool = False
    """Choose `mixers` and `trainers` from measured rates, so that the cluster's GPUs finish the job
    soonest.
    """
    measured: str | None = None
    """Run folder whose measured rates `auto` and `diffmix plan` go by. None: the run folder's own,
    else `auto` makes a short calibration.
    """
    separate: bool = False
    """Keep mixers on nodes labeled ray-subcluster=gen and train workers on nodes labeled
    ray-subcluster=train.
    """
    max_failures: int = 3
    """How often a broken train worker group is started again from its last checkpoint; -1 is
    without limit.
    """


@dataclass
class RunConfig:
    """The job as a whole."""

    mode: Literal["overlapped", "staged"] = "overlapped"
    """Train while mixes are being made, or make all mixes first (the exactly reproducible way)."""
    seed: int = 0
    """Seed of the plan, of personalization and of training."""
    seeds: tuple[int, ...] = ()
    """`diffmix run` does the whole job for each of these in OUT/seed-N and reports mean and
    standard deviation. Empty: `seed` alone.
    """
    address: str | None = None
    """Ray cluster: None starts one on this machine, or joins the one that the job was submitted to;
    `auto` joins a running one.
    """
    train_after: float = 0.05
    """Overlapped mode: share of the planned mixes that must be there before training starts, [0,
    1].
    """
    oracle: str | None = None
    """Folder of a classifier that is only used to report the share of mixes that show their target
    class, or `nano`, the one that comes with the embedded data. None: off.
    """


@dataclass
class ComposeConfig:
    """`diffmix compose`: several sets of mixes into one, in OUT/mixes, which `diffmix train` then
    takes as it is.
    """

    stores: tuple[str, ...] = ()
    """What to put together: run folders, mix stores, and folders in the layouts of `export.format`,
    the reference implementation's among them. Classes are matched by name to those of `data.train`,
    or else of the first store.
    """
    share: tuple[float, ...] = ()
    """Share of each one's mixes to take, drawn by `run.seed` (0 to 1]: one number for all, or one
    for each. Empty: all.
    """
    count: tuple[int, ...] = ()
    """Number of each one's mixes to take instead: one for all, or one for each. Empty: `share`
    decides.
    """


@dataclass
class ExportConfig:
    """`diffmix export`: OUT's mixes or concept in another layout."""

    format: Literal[
        "imagefolder", "webdataset", "reference", "reference-concept", "peft-concept"
    ] = "imagefolder"
    """Mixes as a Hugging Face imagefolder, as WebDataset shards or as the reference implementation
    writes them; or the concept in the reference's files (old attention-processor LoRA) or with
    peft's LoRA.
    """
    to: str = ""
    """Folder that it goes to, which must be empty: a local path, s3:// or gs://."""
    rejected: bool = False
    """Also export the mixes that the gate rejected."""


@dataclass
class Config:
    """All options. `out` is the run folder: everything that the run makes goes there, and a second
    run goes on from it.
    """

    out: str = ""
    """Run folder: a local path, or s3:// or gs:// for a cluster without a shared disk."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    personalize: PersonalizeConfig = field(default_factory=PersonalizeConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    run: RunConfig = field(default_factory=RunConfig)
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def to_dict(config: object) -> dict:
    """The tree as plain dicts, lists, numbers and strings, ready for YAML and JSON."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))  # type: ignore[call-overload,return-value]
