"""What `diffmix export` makes of a concept. Of mixes see test_compose.py."""

import pytest
import torch
from safetensors.torch import load_file

from diffmix.config import Config, ExportConfig, replace
from diffmix.errors import UserError
from diffmix.generator.concept import Concept
from engine.results.export import export
from jobs.cli import main

TOKENS = {"F/A-18": "<class_0>", "翠鸟": "<class_1>"}
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def config(tmp_path):
    return Config(out=str(tmp_path / "run"), export=ExportConfig(to=str(tmp_path / "to")))


def concept(folder, vectors: int = 1, rank: int = 2) -> Concept:
    generator = torch.Generator().manual_seed(0)
    description = Concept(
        class_names=list(TOKENS),
        superclass="thing",
        tokens=TOKENS,
        vectors_per_token=vectors,
        lora_rank=rank,
        base="some/base",
        revision=None,
        base_fingerprint="",
        steps=1,
        seed=0,
        data_fingerprint="",
    )
    sides = {
        "down": torch.randn((2, 8), generator=generator),
        "up": torch.randn((8, 2), generator=generator),
    }
    weights = (
        {f"{LAYER}.lora.{side}.weight": value for side, value in sides.items()} if rank else {}
    )
    return description.save(
        folder,
        {token: torch.randn((vectors, 4), generator=generator) for token in TOKENS.values()},
        weights,
    )


def test_the_references_files(tmp_path, config):
    ours = concept(tmp_path / "run" / "concept")
    config = replace(config, **{"export.format": "reference-concept"})
    assert export(config) == "The concept"
    theirs = Concept.load(tmp_path / "to")
    assert theirs.tokens == {"F A-18": "<class_0>", "翠鸟": "<class_1>"}
    assert all(torch.equal(rows, theirs.embeds()[token]) for token, rows in ours.embeds().items())
    assert all(
        torch.equal(value, theirs.lora_weights()[key]) for key, value in ours.lora_weights().items()
    )
    with pytest.raises(UserError, match="is not empty"):
        export(config)


def test_pefts_files_of_a_given_concept(tmp_path, config):
    concept(tmp_path / "elsewhere")
    changes = {"personalize.concept": str(tmp_path / "elsewhere"), "export.format": "peft-concept"}
    config = replace(config, **changes)
    export(config)
    assert sorted(file.name for file in (tmp_path / "to").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert set(load_file(tmp_path / "to" / "adapter_model.safetensors")) == {
        f"base_model.model.{LAYER}.lora_A.weight",
        f"base_model.model.{LAYER}.lora_B.weight",
    }


@pytest.mark.parametrize(
    ("format", "made", "sentence"),
    [
        ("reference-concept", {"vectors": 3}, "several vectors per token"),
        ("peft-concept", {"rank": 0}, "has tokens but no LoRA"),
        ("reference-concept", None, "is not a concept"),
        ("webdataset", None, "is no mix store"),
    ],
)
def test_what_cannot_be_exported(tmp_path, config, format, made, sentence):
    if made is not None:
        concept(tmp_path / "run" / "concept", **made)
    config = replace(config, **{"export.format": format})
    with pytest.raises(UserError, match=sentence):
        export(config)
    assert not (tmp_path / "to").exists()


def test_a_format_that_there_is_not(capsys):
    assert main(["export", "--export.format", "tfrecord"]) == 2
    assert "--export.format is tfrecord, but it must be imagefolder" in capsys.readouterr().err
