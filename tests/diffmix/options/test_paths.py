"""Options that name files or folders are marked, and their relative paths made absolute."""

import os
import typing
from operator import attrgetter
from typing import Annotated, Any

import pytest

from diffmix.config import Config, replace, with_absolute_paths
from diffmix.options import options
from diffmix.options.markers import OneOf, Path, PathOrName, Place, Usual
from diffmix.options.paths import place_of

NO_PATHS = {
    "data.configuration",
    "data.superclass",
    "data.image_column",
    "placement.cluster_max",
    "data.label_column",
    "gate.prompts",
    "limits.prices",
    "mix.negative_prompt",
    "model.revision",
    "personalize.initializer",
    "personalize.prompts",
    "run.address",
    "run.listeners",
    "train.model_name",
}
"""Options of a text that can never be a file or a folder."""

FORMS = {
    "data.train": ["photos", "./new", "cub:CUB", "voc-main:VOC/2012"],
    "data.test": ["photos", "~/new", "cub:../CUB"],
    "evaluate.features": ["local-dir:photos"],
    "gate.classifier": ["photos", "../run"],
    "gate.clip": ["photos", "./new", "open_clip:local-dir:new", "open_clip:ViT-B-32:weights.pt"],
    "model.base": ["photos", "owner/name", "../new"],
    "run.oracle": ["photos", "./new"],
}
"""Values that hold a relative path; other marked options take any relative path."""

LEFT_ALONE = {
    "data.train": ["nano", "owner/other", "hub/of/nobody", "s3://bucket/photos", "other:photos"],
    "evaluate.features": ["clip", "photos", "inception_v3", "hf-hub:owner/name"],
    "gate.clip": ["owner/other", "open_clip:ViT-B-32:laion2b", "open_clip:hf-hub:owner/name"],
    "model.base": ["nano", "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/sd"],
    "out": ["s3://bucket/run", "gs://bucket/run", "file:///run", "/run", ""],
    "run.oracle": ["nano"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with some of the files and folders that values name."""
    for folder in ("photos", "owner/name", "nano", "home"):
        (tmp_path / "here" / folder).mkdir(parents=True)
    (tmp_path / "here" / "weights.pt").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here" / "home"))
    return tmp_path / "here"


def is_free_text(kind: Any) -> bool:
    """Whether a value may be a text of the user's own."""
    marks = getattr(kind, "__metadata__", ())
    if any(isinstance(mark, OneOf) for mark in marks):
        return False
    return kind is str or any(is_free_text(part) for part in typing.get_args(kind))


def test_every_option_of_a_free_text_is_a_path_or_can_be_none():
    free = {name for name, option in options(Config).items() if is_free_text(option.kind)}
    marked = {name for name, option in options(Config).items() if place_of(option.kind)}
    assert free - marked == NO_PATHS
    assert marked <= free


@pytest.mark.parametrize(
    "name", [name for name, option in options(Config).items() if place_of(option.kind)]
)
def test_relative_paths_of_every_marked_option_become_absolute(here, name):
    listed = isinstance(options(Config)[name].default, tuple)
    for value in FORMS.get(name, ["new", "a/b", "./new", "../new", "~/new", "photos"]):
        config = replace(Config(), **{name: (value, value) if listed else value})
        made = attrgetter(name)(with_absolute_paths(config))
        for one in made if listed else [made]:
            before, _, path = one.rpartition(":")
            given = value.removeprefix(f"{before}:")
            assert path == os.path.normpath(os.path.expanduser(os.path.join(here, given))) or (
                given[0] == "~" and path == os.path.expanduser(given)
            )
            assert value.startswith(before)
        again = replace(config, **{name: made})
        assert with_absolute_paths(again) == again


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in LEFT_ALONE.items() for value in values]
)
def test_names_and_uris_stay_as_they_are(here, name, value):
    config = replace(Config(), **{name: value})
    assert with_absolute_paths(config) == config


def test_an_option_can_be_left_out(here):
    config = replace(Config(), **{"out": "runs", "export.to": "there"})
    assert with_absolute_paths(config, but=["out"]).out == "runs"
    assert with_absolute_paths(config, but=["out"]).export.to == str(here / "there")


def test_marks_are_found_in_lists_and_unions():
    assert place_of(Usual[tuple[Path, ...] | None]) == Place()
    assert place_of(Annotated[PathOrName, "another mark"]) == Place("path or name")
    assert place_of(Usual[str | None]) is None
