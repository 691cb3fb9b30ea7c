"""Each kind of bad input: one clear sentence, exit code 2, and no cluster started for it."""

import json
import shutil
import struct
import zlib

import pytest
import ray
import yaml

from diffmix.config import to_dict
from jobs.cli import main


@pytest.fixture
def refuse(tmp_path, small_config, capsys):
    """`refuse(sentence, arguments, **options)`: the run must end with code 2 and this one sentence,
    and without Ray.
    """

    def check(sentence: str, *arguments: str, **options) -> str:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            yaml.safe_dump(to_dict(small_config(options.pop("out", tmp_path / "out"), **options)))
        )
        capsys.readouterr()
        assert main(["run", "--config", str(recipe), *arguments]) == 2
        lines = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("diffmix: ")
        ]
        assert len(lines) == 1
        assert sentence in lines[0]
        assert lines[0].endswith((".", "?"))
        assert not ray.is_initialized()
        return lines[0]

    return check


def test_no_classes(refuse, tmp_path):
    (tmp_path / "photos").mkdir()
    refuse(str(tmp_path / "photos"), **{"data.train": str(tmp_path / "photos")})


def test_one_class(refuse, tmp_path, write_images):
    refuse(
        "at least two classes",
        **{"data.train": str(write_images(tmp_path / "photos", ["only"], 3))},
    )


def test_missing_folder(refuse, tmp_path):
    refuse("nowhere", **{"data.train": str(tmp_path / "nowhere")})


def test_class_without_a_readable_image(refuse, tmp_path, write_images):
    photos = write_images(tmp_path / "photos", ["good", "fine", "empty"], 3)
    for file in (photos / "empty").iterdir():
        file.write_bytes(b"")
    refuse("'empty'", **{"data.train": str(photos)})


def broken(kind: str, good: bytes) -> bytes:
    if kind == "bomb":  # a PNG that says it has 400 million pixels
        header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        return (
            b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", 13)
            + chunk
            + struct.pack(">I", zlib.crc32(chunk))
            + good[33:]
        )
    return {"corrupt": b"not an image" * 20, "empty": b"", "truncated": good[: len(good) // 2]}[
        kind
    ]


@pytest.mark.parametrize("kind", ["corrupt", "empty", "truncated", "bomb"])
def test_broken_files_beyond_the_limit(refuse, tmp_path, write_images, kind):
    photos = write_images(tmp_path / "photos", ["a", "b"], 4)
    for index in range(2):
        file = photos / "a" / f"{index}.png"
        file.write_bytes(broken(kind, file.read_bytes()))
    sentence = refuse(
        "More than 1 images cannot be read", **{"data.train": str(photos), "data.max_bad_images": 1}
    )
    assert "a/1.png" in sentence


def test_base_model_folder_that_is_none(refuse, tmp_path):
    (tmp_path / "model").mkdir()
    refuse("is not a diffusers pipeline", **{"model.base": str(tmp_path / "model")})
    refuse("There is no base model", **{"model.base": str(tmp_path / "gone")})


def concept(folder, class_names: list[str], base_fingerprint: str) -> str:
    """A concept folder as far as its description goes; its weights are never reached."""
    folder.mkdir()
    description = {
        "class_names": class_names,
        "superclass": "thing",
        "tokens": {},
        "vectors_per_token": 0,
        "lora_rank": 0,
        "base": "somebody/else",
        "revision": None,
        "base_fingerprint": base_fingerprint,
        "steps": 1,
        "seed": 0,
        "data_fingerprint": "",
        "settings": {},
    }
    (folder / "concept.json").write_text(json.dumps(description))
    return str(folder)


def test_concept_of_other_classes(refuse, tmp_path):
    path = concept(tmp_path / "concept", ["cat", "dog"], "")
    refuse(
        "was made for other classes", **{"personalize.concept": path, "mix.strategy": "diff-mix"}
    )


def test_concept_of_another_base(refuse, tmp_path):
    path = concept(tmp_path / "concept", ["red one", "green", "blau", "黄"], "sha256:other")
    refuse(
        "another base model, somebody/else",
        **{"personalize.concept": path, "mix.strategy": "diff-mix"},
    )


def test_no_concept_at_all(refuse, tmp_path):
    (tmp_path / "concept").mkdir()
    refuse(
        "is not a concept",
        **{"personalize.concept": str(tmp_path / "concept"), "mix.strategy": "diff-mix"},
    )


def test_store_of_another_plan(refuse, tmp_path, small_config):
    from engine.placement.preflight import check_inputs

    inputs = check_inputs(small_config(tmp_path / "out"))
    assert not (tmp_path / "out" / "mixes").exists(), "a check only checks"
    inputs.source.open(inputs.config, None)
    refuse("plan.guidance_scale is 7.5 there and 3.0 now", **{"mix.guidance_scale": 3.0})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--mix.strength", "0"),
        ("--mix.strength", "1.01"),
        ("--mix.synthetic_p", "-0.1"),
        ("--mix.synthetic_p", "2"),
    ],
)
def test_numbers_out_of_range(refuse, arguments):
    refuse(f"{arguments[0]} is", *arguments)


def test_misspelled_option(refuse):
    refuse("did you mean --mix.strength?", "--mix.strenght", "0.5")


def test_misspelled_model_name(refuse):
    refuse("did you mean resnet10t", **{"train.model_name": "resnet10tt"})


def test_starting_weights_that_cannot_be_had(refuse, tmp_path):
    """Found out before anything is personalized or mixed. Tests have no connection to the hub."""
    refuse("The pre-trained weights of resnet10t cannot be loaded", **{"train.pretrained": True})
    refuse(
        "cannot be read as weights", **{"train.checkpoint_path": str(tmp_path / "none.safetensors")}
    )


def test_more_trained_stages_than_there_are(refuse):
    refuse("trained_stages is 9, but the model has 4 stages", **{"train.trained_stages": 9})


def test_prompt_with_an_unknown_placeholder(refuse):
    refuse("cannot be used", **{"personalize.prompts": ("a {species}",)})


def test_out_that_is_a_file(refuse, tmp_path):
    (tmp_path / "file").write_text("")
    refuse("choose another --out", out=tmp_path / "file" / "run")


def test_no_permission(refuse, monkeypatch):
    monkeypatch.setattr(
        "os.access", lambda *_: False
    )  # tests may run as root, whom nothing is forbidden
    refuse("no permission")


def test_no_space(refuse, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    refuse("0 MB free")
