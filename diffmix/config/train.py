"""Options of the group `train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from diffmix.config.model import Precision
from diffmix.options.markers import Path, Share, Unit, Usual


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The classifier and how it is trained."""

    model_name: Usual[str] = "resnet50"
    """Architecture: a timm model name."""
    pretrained: Usual[bool] = True
    """Start from pre-trained weights. They are `checkpoint_path`, or else timm's, downloaded from
    the hub.
    """
    checkpoint_path: Path | None = None
    """Local weights to start from instead of the hub's. A head of another size is left out. None:
    off.
    """
    resolution: Usual[Annotated[PositiveInt, Unit("pixels")]] = 224
    """Side of the classifier's input. [C] 224, 384 or 448"""
    resize: Annotated[PositiveInt | None, Unit("pixels")] = None
    """Size that images are resized to before the crop. None: resolution / 0.875. [C] 256 for 224,
    440 for 384, 512 for 448
    """
    resize_mode: Literal["shorter", "squash"] = "shorter"
    """What is resized to `resize`, in training and in tests: the shorter side, or both sides.
    `squash` makes every image square and so sees more of it, but out of proportion. [C] squash;
    shorter for long tails
    """
    resized_crop: bool = False
    """Train on random parts of 8 to 100 % of the image instead of the padded crop. Each part is
    resized to `resolution`. [C] long tails only
    """
    crop_padding: Annotated[NonNegativeInt, Unit("pixels")] = 8
    """Padding of the random crop. [C] 8"""
    flip: bool = True
    """Flip training images at random."""
    rotate: Annotated[NonNegativeFloat, Unit("degrees")] = 0.0
    """Largest random rotation."""
    translate: Share = 0.0
    """Largest random shift, as a share of the side."""
    scale: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Largest random change of size, as a share: 0.2 is 0.8 to 1.2."""
    color_jitter: NonNegativeFloat = 0.0
    """Strength of random brightness, contrast and saturation. A quarter of it applies to the hue
    unless `hue` is set.
    """
    hue: Annotated[float, Interval(ge=0, le=0.5)] | None = None
    """Largest random shift of the hue. None: a quarter of `color_jitter`. [C] 0 for long tails"""
    rand_augment: bool = False
    """Train half of the images with RandAugment, and half with gray and blur, as PaCo does. It
    takes the place of the other random steps. [C] an option for long tails
    """
    invert: Share = 0.0
    """Probability of inverting the colors."""
    erase: Share = 0.0
    """Probability of erasing a random rectangle."""
    mixup_alpha: NonNegativeFloat = 0.0
    """MixUp's Beta parameter; 0 is off. [C] 1.0 as a baseline"""
    cutmix_alpha: NonNegativeFloat = 0.0
    """CutMix's Beta parameter; 0 is off. [C] 1.0 as a baseline"""
    mix_probability: Share = 0.5
    """Probability that MixUp or CutMix is applied to a batch, where one is on. [C] 0.5"""
    mix_form: Literal["timm", "reference"] = "timm"
    """How MixUp and CutMix find partners. `timm` mixes a batch with its own reverse. `reference`
    draws them: MixUp by a permutation of the batch, CutMix for each sample from the whole set, with
    a box and a probability of its own. [C] reference
    """
    epochs: Usual[Annotated[PositiveInt, Unit("epochs")]] = 120
    """Passes over the real training images. [C] 120"""
    batch_size: Usual[Annotated[PositiveInt, Unit("samples")]] = 64
    """Samples per step, over all workers together. [C] 256, 64 or 32"""
    lr: Usual[PositiveFloat] = 0.05
    """Peak learning rate. [C] .005 to .1 by data set for ResNets, 1e-5 to .001 for ViTs"""
    lr_per: Literal["step", "epoch"] = "step"
    """When the learning rate changes: at each step, or between epochs. [C] epoch for long tails"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer. SGD runs without Nesterov's momentum. [C] sgd"""
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    """SGD's momentum. [C] 0.9"""
    weight_decay: NonNegativeFloat = 5e-4
    """Weight decay. [C] 5e-4"""
    warmup_fraction: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises linearly. A cosine follows. [C] 0.1"""
    lr_drop_epochs: Annotated[tuple[NonNegativeInt, ...], Unit("epochs")] = ()
    """Epochs, counted from 0, at which the learning rate falls. They replace the cosine. [C] 160
    180 for long tails
    """
    lr_drop_factor: Annotated[float, Interval(gt=0, le=1)] = 0.01
    """Share of the learning rate that each of `lr_drop_epochs` leaves. [C] 0.01"""
    last_batch: Literal["fill", "skip", "short"] | None = None
    """What becomes of an epoch's last batch where images are missing for it. `fill` repeats some
    images, `skip` leaves the batch out, `short` trains on what is there. None: `fill`, or with
    `protocol reference` `skip`. [C] skip; short for long tails
    """
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    """Share of the label spread over all classes. [C] 0.1; 0 for long tails"""
    smoothing_form: Literal["uniform", "others"] = "uniform"
    """What `label_smoothing` s adds to each of C classes. `uniform` adds s / C of the label's sum,
    `others` adds s / (C - 1), as if the label's own class were left out. [C] others
    """
    smooth_mixes: bool = True
    """Smooth the labels of mixes too, although they are soft already. [C] True"""
    loss: Literal["ce", "ldam", "balanced-softmax", "focal"] = "ce"
    """Loss: cross-entropy (`ce`), or one for long tails. `ldam` also gives the model a cosine head,
    which its margins need.
    """
    ldam_max_margin: PositiveFloat = 0.5
    """LDAM's margin of the smallest class. [C] 0.5"""
    ldam_scale: PositiveFloat = 30.0
    """Factor on LDAM's logits. [C] 30"""
    ldam_head: Literal["cosine", "plain"] = "cosine"
    """Head of the model with `loss ldam`: its paper's, whose logits are cosines, or a linear one.
    [C] plain
    """
    focal_gamma: NonNegativeFloat = 2.0
    """Focal loss's exponent; 0 is cross-entropy. Its paper has 2."""
    reweight: Literal["none", "class-balanced", "drw"] = "none"
    """Weigh classes by their effective number of images. `class-balanced` weighs always, `drw` from
    `drw_epoch` on.
    """
    reweight_beta: Annotated[float, Interval(ge=0, lt=1)] = 0.9999
    """Beta of the effective number (1 - beta^n) / (1 - beta). 0 weighs all classes alike. [C]
    0.9999
    """
    drw_epoch: Annotated[NonNegativeInt, Unit("epochs")] = 160
    """First epoch, counted from 0, in which `drw` weighs classes. [C] 160"""
    reweight_mean: Literal["weights", "torch"] = "weights"
    """What a weighted loss is divided by: the samples' weights, or what torch's loss takes. `torch`
    divides by the number of samples in a run with mixes, whose labels are soft, and by the weights
    without them. [C] torch
    """
    cmo: bool = False
    """Paste boxes of class-balanced real images into images of the batch (CMO). For long tails."""
    cmo_probability: Share = 0.5
    """Probability that CMO pastes into a batch. [C] 0.5"""
    cmo_skip: Annotated[tuple[NonNegativeInt, NonNegativeInt], Unit("epochs")] = (4, 3)
    """Epochs without CMO at the start and at the end. [C] 4 3"""
    cmo_mixes: bool = False
    """Let CMO paste mixes too, each with probability `mix.synthetic_p`. [C] True"""
    trained_stages: Annotated[NonNegativeInt | None, Unit("stages")] = None
    """Last stages of the backbone that are trained beside the head, in all epochs. 0 trains the
    head alone; 4 trains a ResNet without its stem. None: everything. [C] None; 0 to 4 in an
    ablation
    """
    freeze_epochs: Annotated[NonNegativeInt, Unit("epochs")] = 0
    """First epochs, in which the head alone is trained. The backbone and its batch statistics stay
    as they are.
    """
    protocol: Literal["validation", "reference"] = "validation"
    """Images that pick the epoch: the held-out ones, or the test set. `reference` trains as the
    reference implementation does. It holds nothing out (`data.val_fraction` is not read), skips
    incomplete batches, takes its learning rates, and picks among epochs 0, 4, 8, ... by the test
    set. Its figures are optimistic, and the report says so.
    """
    gradient_clip: NonNegativeFloat = 0.0
    """Gradient norm above which gradients are scaled down; 0 is off."""
    precision: Precision = "auto"
    """Number format of training. `auto` is bf16 on GPUs that have it, fp16 on older GPUs, and fp32
    on CPUs.
    """
    zero_stage: Annotated[int, Interval(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage: what is split over the workers. 1 splits the optimizer's state, 2 also
    gradients, 3 also weights.
    """
    eval_every: Annotated[PositiveInt | None, Unit("epochs")] = None
    """Epochs between validations. Each validation also writes a checkpoint. None: 1, or with
    `protocol reference` 4, counted from the first epoch. [C] 4; 1 for long tails
    """
    checkpoint_minutes: Annotated[NonNegativeFloat, Unit("minutes")] = 10.0
    """Minutes between checkpoints within an epoch, beside those of the validations; 0 is off. A
    restart loses at most so much training.
    """
    seed: NonNegativeInt | None = None
    """Seed of the classifier alone: its new head, its samples and their augmentation. None:
    `run.seed`.
    """
    loader_workers: Annotated[NonNegativeInt | None, Unit("processes")] = None
    """Processes per train worker that decode images; 0 decodes in the worker itself. None: 2 on a
    CPU, and on a GPU the machine's cores for each of its GPUs, less one, from 2 to 16.
    """
    baseline: Usual[bool] = False
    """Also train a classifier without mixes, to compare with. It trains beside personalization
    where the cluster has room for both.
    """
