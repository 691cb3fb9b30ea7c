"""Rules between options. The bounds of a single option stand at its field in `diffmix.config`."""

from __future__ import annotations

from operator import attrgetter

from diffmix import strategies
from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.options import options
from diffmix.options.markers import numbers
from diffmix.options.phrases import shown
from diffmix.plan import BETA_RANGE

_FEW_STEPS = 50
"""The schedule that the few-step samplers were distilled on."""


def check(config: Config) -> None:
    """Raise `UserError` for the first value that is out of bounds or contradicts another option.

    The sentence names the option, its value and what the value must be.
    """
    for option in options(Config).values():
        option.fit(attrgetter(option.name)(config))
    for rules in (
        _check_mix,
        _check_model,
        _check_personalize,
        _check_train,
        _check_long_tail,
        _check_groups,
        _check_elastic,
        _check_compose,
    ):
        rules(config)


def _require(config: Config, ok: bool, option: str, allowed: str) -> None:
    """Raise `UserError` unless `ok`; `allowed` says what the option must be."""
    if not ok:
        value = shown(attrgetter(option)(config))
        raise UserError(f"--{option} is {value}, but it must be {allowed}.")


def _check_mix(config: Config) -> None:
    mix, place = config.mix, config.placement
    strategies.find(mix.strategy)  # one of the user's own is imported
    least = 1 / mix.num_inference_steps
    _require(
        config,
        all(int(mix.num_inference_steps * strength) >= 1 for strength in mix.strength),
        "mix.strength",
        f"at least {least:.3g}, or no step of mix.num_inference_steps is run",
    )
    least = BETA_RANGE[0]
    _require(
        config,
        mix.strength_beta is None or int(mix.num_inference_steps * least) >= 1,
        "mix.num_inference_steps",
        f"at least {1 / least:.0f} with mix.strength_beta, which draws strengths from {least} on",
    )
    low, high = mix.guidance_interval
    _require(config, low <= high, "mix.guidance_interval", "two rising numbers from 0 to 1")
    few_steps = mix.sampler != "dpm"
    _require(
        config,
        few_steps or mix.sampler_lora is None,
        "mix.sampler",
        "lcm or tcd where mix.sampler_lora is set",
    )
    _require(
        config,
        not few_steps or mix.num_inference_steps <= _FEW_STEPS,
        "mix.num_inference_steps",
        f"at most {_FEW_STEPS} for {mix.sampler}",
    )
    _require(
        config,
        place.mixers[0] <= place.mixers[-1],
        "placement.mixers",
        "a number from 1, or a least and a most",
    )
    _require(
        config,
        not (place.auto and place.separate),
        "placement.auto",
        "off where placement.separate is on: node labels are the split then",
    )


def _check_personalize(config: Config) -> None:
    personalize, workers = config.personalize, config.placement.personalizers
    _require(
        config,
        personalize.tokens or personalize.lora,
        "personalize.tokens",
        "on where personalize.lora is off",
    )
    parts = workers * personalize.gradient_accumulation_steps
    _require(
        config,
        personalize.global_batch_size is None or personalize.global_batch_size >= parts,
        "personalize.global_batch_size",
        f"at least {parts}: an image for each of placement.personalizers, {workers}, and each of "
        "personalize.gradient_accumulation_steps",
    )


def _check_model(config: Config) -> None:
    _require(
        config,
        config.model.precision == "fp16" or not config.model.fp16_accumulation,
        "model.precision",
        "fp16 with model.fp16_accumulation True",
    )


def _check_train(config: Config) -> None:
    train, trainers = config.train, config.placement.trainers
    if train.mix_form == "timm" and (train.mixup_alpha or train.cutmix_alpha):
        _require(
            config,
            train.batch_size % (2 * trainers) == 0,
            "train.batch_size",
            "even for each train worker where MixUp or CutMix is on",
        )
        # The batches of `protocol reference` may be smaller than train.batch_size.
        _require(
            config,
            train.protocol == "validation" and train.last_batch in (None, "fill"),
            "train.mix_form",
            "reference where batches may be smaller (train.last_batch, train.protocol reference)",
        )
    _require(
        config,
        train.precision != "fp16" or train.zero_stage == 0,
        "train.precision",
        f"bf16, fp32 or auto with train.zero_stage {train.zero_stage}: DeepSpeed clips fp16 "
        "gradients before it unscales them",
    )
    _require(
        config,
        train.batch_size % trainers == 0,
        "train.batch_size",
        f"a multiple of placement.trainers, {trainers}",
    )
    _require(
        config,
        train.freeze_epochs <= train.epochs,
        "train.freeze_epochs",
        f"from 0 to train.epochs, {train.epochs}",
    )
    drops = train.lr_drop_epochs
    _require(
        config, list(drops) == sorted(set(drops)), "train.lr_drop_epochs", "rising epochs from 0"
    )


def _check_elastic(config: Config) -> None:
    if not config.placement.elastic:
        return
    _require(
        config,
        config.run.mode == "overlapped",
        "placement.elastic",
        "off with run.mode staged, whose weights are those of a fixed number of workers",
    )
    _require(
        config,
        config.train.zero_stage == 0,
        "placement.elastic",
        f"off with train.zero_stage {config.train.zero_stage}: DeepSpeed brings ZeRO's split state "
        "to another number of workers for Adam alone, and without batch norms' statistics",
    )
    each = config.placement.gpus_per_trainer
    _require(
        config,
        each >= 1,
        "placement.elastic",
        f"off with placement.gpus_per_trainer {each:g}: it gives each train worker whole GPUs",
    )


def _check_long_tail(config: Config) -> None:
    train = config.train
    _require(
        config,
        train.reweight != "drw" or train.drw_epoch < train.epochs,
        "train.drw_epoch",
        f"below train.epochs, {train.epochs}, or it never starts",
    )
    _require(
        config,
        config.mix.target_weighting == "uniform" or config.mix.target_sampling == "uniform",
        "mix.target_weighting",
        "uniform where mix.target_sampling is not: rare classes would count twice",
    )
    if train.cmo:
        _require(
            config,
            not (train.mixup_alpha or train.cutmix_alpha),
            "train.cmo",
            "off where MixUp or CutMix is on",
        )
        _require(
            config,
            sum(train.cmo_skip) < train.epochs,
            "train.cmo_skip",
            f"two numbers from 0 that leave some of the {train.epochs} epochs",
        )


def _check_groups(config: Config) -> None:
    most = config.evaluate.many_above + 1
    _require(
        config,
        config.evaluate.few_below <= most,
        "evaluate.few_below",
        f"from 0 to evaluate.many_above + 1, {most}",
    )
    limits = config.limits
    _require(
        config,
        limits.usd is None or any(numbers(limits.prices).values()),
        "limits.prices",
        "given where limits.usd is set, such as gen=0.4 train=2.1",
    )
    seeds = config.run.seeds
    _require(config, len(set(seeds)) == len(seeds), "run.seeds", "different numbers")


def _check_compose(config: Config) -> None:
    compose = config.compose
    _require(
        config,
        not (compose.share and compose.count),
        "compose.share",
        "left out where compose.count is set",
    )
    for name in ("share", "count"):
        _require(
            config,
            len(getattr(compose, name)) in (0, 1, len(compose.stores)),
            f"compose.{name}",
            "one number, or one for each of compose.stores",
        )
