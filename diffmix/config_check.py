"""Values of options that cannot be meant, found before anything is started."""

from __future__ import annotations

from collections.abc import Callable

from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.plan import BETA_RANGE


def check(config: Config) -> None:
    """Raise `UserError` for a value that cannot be meant, naming the option, the value and what it
    may be.
    """

    def require(ok: bool, option: str, value: object, allowed: str) -> None:
        if not ok:
            raise UserError(f"--{option} is {value}, but it must be {allowed}.")

    data, mix, train, personalize, place = (
        config.data,
        config.mix,
        config.train,
        config.personalize,
        config.placement,
    )
    for name in ("val_fraction", "test_fraction"):
        require(
            0 <= getattr(data, name) < 1,
            f"data.{name}",
            getattr(data, name),
            "at least 0 and below 1",
        )
    require(data.shots is None or data.shots >= 1, "data.shots", data.shots, "at least 1")
    factor = data.imbalance_factor
    require(
        factor is None or 0 < factor <= 1, "data.imbalance_factor", factor, "above 0 and at most 1"
    )
    require(data.max_pixels >= 1, "data.max_pixels", data.max_pixels, "at least 1")
    require(data.max_bad_images >= 0, "data.max_bad_images", data.max_bad_images, "0 or more")
    require(
        len(mix.strength) > 0, "mix.strength", "empty", "one or more numbers above 0 and at most 1"
    )
    for strength in mix.strength:
        require(0 < strength <= 1, "mix.strength", strength, "above 0 and at most 1")
        require(
            int(mix.num_inference_steps * strength) >= 1,
            "mix.strength",
            strength,
            f"at least {1 / max(mix.num_inference_steps, 1):.3g}, or no step of mix.num_inference_steps is run",
        )
    if mix.strength_beta is not None:
        require(
            min(mix.strength_beta) > 0,
            "mix.strength_beta",
            mix.strength_beta,
            "two numbers above 0",
        )
        require(
            int(mix.num_inference_steps * BETA_RANGE[0]) >= 1,
            "mix.num_inference_steps",
            mix.num_inference_steps,
            f"at least {1 / BETA_RANGE[0]:.0f} with mix.strength_beta, which draws strengths from {BETA_RANGE[0]} on",
        )
    require(
        0 <= mix.synthetic_p <= 1, "mix.synthetic_p", mix.synthetic_p, "a probability from 0 to 1"
    )
    require(mix.gamma > 0, "mix.gamma", mix.gamma, "above 0")
    require(0 < mix.soft_scale <= 1, "mix.soft_scale", mix.soft_scale, "above 0 and at most 1")
    require(mix.multiplier > 0, "mix.multiplier", mix.multiplier, "above 0")
    require(mix.guidance_scale >= 0, "mix.guidance_scale", mix.guidance_scale, "0 or more")
    low, high = mix.guidance_interval
    require(
        0 <= low <= high <= 1,
        "mix.guidance_interval",
        mix.guidance_interval,
        "two rising numbers from 0 to 1",
    )
    few = mix.sampler != "dpm"
    require(
        few or mix.sampler_lora is None,
        "mix.sampler",
        mix.sampler,
        "lcm or tcd where mix.sampler_lora is set",
    )
    most = 50  # the schedule that these samplers were distilled on
    require(
        not few or mix.num_inference_steps <= most,
        "mix.num_inference_steps",
        mix.num_inference_steps,
        f"at most {most} for {mix.sampler}",
    )
    require(1 <= mix.image_quality <= 100, "mix.image_quality", mix.image_quality, "from 1 to 100")
    for name in ("count", "referred_classes"):
        value = getattr(mix, name)
        require(value is None or value >= 1, f"mix.{name}", value, "at least 1")
    at_least_one = {
        "mix": ("num_inference_steps",)
        if mix.batch == "auto"
        else ("num_inference_steps", "batch"),
        "train": ("epochs", "batch_size", "resolution", "eval_every"),
        "personalize": (
            "steps",
            "batch_size",
            "lora_rank",
            "vectors_per_token",
            "gradient_accumulation_steps",
            "checkpoint_every",
            "prior_images",
            "large_batch",
        ),
        "placement": ("trainers", "personalizers"),
    }
    for group, names in at_least_one.items():
        for name in names:
            value = getattr(getattr(config, group), name)
            require(value >= 1, f"{group}.{name}", value, "at least 1")
    threshold = config.gate.threshold
    require(threshold is None or 0 <= threshold <= 1, "gate.threshold", threshold, "from 0 to 1")
    require(
        0 <= config.gate.quantile < 1,
        "gate.quantile",
        config.gate.quantile,
        "at least 0 and below 1",
    )
    require(config.evaluate.mixes >= 0, "evaluate.mixes", config.evaluate.mixes, "0 or more")
    require(train.lr > 0, "train.lr", train.lr, "above 0")
    if train.mixup_alpha or train.cutmix_alpha:
        even = train.batch_size % (2 * place.trainers) == 0
        require(
            even,
            "train.batch_size",
            train.batch_size,
            "even for each train worker where MixUp or CutMix is on",
        )
    require(
        0 <= train.warmup_fraction < 1,
        "train.warmup_fraction",
        train.warmup_fraction,
        "at least 0 and below 1",
    )
    require(
        0 <= train.label_smoothing < 1,
        "train.label_smoothing",
        train.label_smoothing,
        "at least 0 and below 1",
    )
    _check_long_tail(config, require)
    require(train.loader_workers >= 0, "train.loader_workers", train.loader_workers, "0 or more")
    require(
        train.batch_size % place.trainers == 0,
        "train.batch_size",
        train.batch_size,
        f"a multiple of placement.trainers, {place.trainers}",
    )
    dropout, snr_gamma = personalize.prompt_dropout, personalize.snr_gamma
    require(0 <= dropout <= 1, "personalize.prompt_dropout", dropout, "a probability from 0 to 1")
    require(snr_gamma is None or snr_gamma > 0, "personalize.snr_gamma", snr_gamma, "above 0")
    require(
        personalize.noise_offset >= 0,
        "personalize.noise_offset",
        personalize.noise_offset,
        "0 or more",
    )
    require(
        personalize.prior_weight >= 0,
        "personalize.prior_weight",
        personalize.prior_weight,
        "0 or more",
    )
    require(
        personalize.tokens or personalize.lora,
        "personalize.tokens",
        False,
        "on where personalize.lora is off",
    )
    require(
        len(place.mixers) in (1, 2) and 1 <= place.mixers[0] <= place.mixers[-1],
        "placement.mixers",
        place.mixers,
        "a number from 1, or a least and a most",
    )
    require(
        not (place.auto and place.separate),
        "placement.auto",
        True,
        "off where placement.separate is on: node labels are the split then",
    )
    for name, seed in (
        ("data.seed", config.data.seed),
        *(("run.seed", seed) for seed in (config.run.seed, *config.run.seeds)),
    ):
        require(seed >= 0, name, seed, "0 or more")
    require(
        0 <= config.run.train_after <= 1, "run.train_after", config.run.train_after, "from 0 to 1"
    )
    _check_compose(config, require)


def _check_long_tail(config: Config, require: Callable[[bool, str, object, str], None]) -> None:
    """The part of `check` about losses, schedules and groups for long tails, and about several
    seeds.
    """
    train, evaluate, seeds = config.train, config.evaluate, config.run.seeds
    require(train.hue is None or 0 <= train.hue <= 0.5, "train.hue", train.hue, "from 0 to 0.5")
    for name in ("ldam_max_margin", "ldam_scale"):
        require(getattr(train, name) > 0, f"train.{name}", getattr(train, name), "above 0")
    require(train.focal_gamma >= 0, "train.focal_gamma", train.focal_gamma, "0 or more")
    require(
        0 <= train.reweight_beta < 1,
        "train.reweight_beta",
        train.reweight_beta,
        "at least 0 and below 1",
    )
    late = f"below train.epochs, {train.epochs}, or it never starts"
    require(
        train.reweight != "drw" or 0 <= train.drw_epoch < train.epochs,
        "train.drw_epoch",
        train.drw_epoch,
        late,
    )
    require(
        0 <= train.cmo_probability <= 1,
        "train.cmo_probability",
        train.cmo_probability,
        "a probability from 0 to 1",
    )
    if train.cmo:
        require(
            not (train.mixup_alpha or train.cutmix_alpha),
            "train.cmo",
            True,
            "off where MixUp or CutMix is on",
        )
        fits = min(train.cmo_skip) >= 0 and sum(train.cmo_skip) < train.epochs
        require(
            fits,
            "train.cmo_skip",
            train.cmo_skip,
            f"two numbers from 0 that leave some of the {train.epochs} epochs",
        )
    drops = train.lr_drop_epochs
    require(
        list(drops) == sorted(set(drops)) and min(drops, default=0) >= 0,
        "train.lr_drop_epochs",
        drops,
        "rising epochs from 0",
    )
    require(
        0 <= train.freeze_epochs <= train.epochs,
        "train.freeze_epochs",
        train.freeze_epochs,
        f"from 0 to train.epochs, {train.epochs}",
    )
    few, many = evaluate.few_below, evaluate.many_above
    require(
        0 <= few <= many + 1,
        "evaluate.few_below",
        few,
        f"from 0 to evaluate.many_above + 1, {many + 1}",
    )
    require(len(set(seeds)) == len(seeds), "run.seeds", seeds, "different numbers")


def _check_compose(config: Config, require: Callable[[bool, str, object, str], None]) -> None:
    compose = config.compose
    for share in compose.share:
        require(0 < share <= 1, "compose.share", share, "above 0 and at most 1")
    for count in compose.count:
        require(count >= 1, "compose.count", count, "at least 1")
    require(
        not (compose.share and compose.count),
        "compose.share",
        compose.share,
        "left out where compose.count is set",
    )
    for name in ("share", "count"):
        given = len(getattr(compose, name))
        require(
            given in (0, 1, len(compose.stores)),
            f"compose.{name}",
            getattr(compose, name),
            "one number, or one for each of compose.stores",
        )
