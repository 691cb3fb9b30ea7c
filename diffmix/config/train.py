"""Options of the group `train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffmix.config.model import Precision


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
