"""What a classifier's weights depend on: by it a run folder tells a finished one from another."""

from __future__ import annotations

import hashlib
import json

from diffmix.classifier.schedule import validated_every
from diffmix.config import to_dict
from engine.mixing.filter import Decision
from engine.mixing.job import MixJob
from engine.mixing.store import MixStore
from engine.session import Session

_WITHOUT_EFFECT = ("baseline", "checkpoint_minutes", "loader_workers", "seed")
"""`train` options that do not affect the trained weights, or that have their own place in the
identity; changing them does not invalidate a checkpoint.
"""
_YOUNGER: dict[str, object] = {
    "resize_mode": "shorter",
    "rand_augment": False,
    "mix_form": "timm",
    "lr_per": "step",
    "lr_drop_factor": 0.01,
    "last_batch": None,
    "smoothing_form": "uniform",
    "ldam_head": "cosine",
    "reweight_mean": "weights",
    "cmo_mixes": False,
    "trained_stages": None,
}
"""`train` options that older run folders do not have, with the value that they stand for there.
With that value an option is left out of the identity, so that an older folder keeps its classifier.
"""


def classifier_identity(
    session: Session, job: MixJob | None, streaming: bool, baseline: bool
) -> dict:
    """What the trained weights depend on, as JSON values."""
    config = session.config
    recipe = {}
    for option, value in to_dict(config.train).items():
        younger = option in _YOUNGER and value == _YOUNGER[option]
        if option not in _WITHOUT_EFFECT and not younger:
            recipe[option] = value
    recipe["eval_every"] = validated_every(config.train)
    identity: dict[str, object] = {
        "train": recipe,
        "data": session.data.train.fingerprint,
        "seed": config.run.seed if config.train.seed is None else config.train.seed,
        "mixes": baseline or _mix_identity(session, job),
    }
    if config.train.protocol == "reference":
        identity["schedule"] = "reference"  # older folders had only its choice of the epoch
    if job is not None and not streaming:
        stored = len(MixStore(job.store).stored_chunks())
        if stored < session.source.plan(config).num_chunks:
            # Weights trained on a part of the mixes are not those trained on all of them.
            identity["stored"] = stored
    return identity


def _mix_identity(session: Session, job: MixJob | None) -> object:
    if job is None:
        return None
    mix, store = session.config.mix, MixStore(job.store)
    decision = Decision.of(store)
    filtered = [decision.gate.scorer, decision.gate.cut] if decision else []
    weighted = [] if mix.target_weighting == "uniform" else [mix.target_weighting]
    return [mix.gamma, mix.soft_scale, mix.synthetic_p, store.identity, *filtered, *weighted]


def key_of(*identity: object) -> str:
    """A short name for what these JSON values say, for a folder."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
