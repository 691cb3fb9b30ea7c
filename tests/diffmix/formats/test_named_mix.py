"""Descriptions of mixes; round trips through files are in the tests of each layout."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffmix.errors import UserError
from diffmix.formats import FORMATS, detect
from diffmix.formats.named_mix import batches, described, from_description, shortest, suffix
from diffmix.storage import Folder


def test_a_description_survives_json(make_mixes, kept):
    for mix in make_mixes():
        fields = json.loads(json.dumps(described(mix)))
        assert kept(from_description(fields, mix.load, "here")) == kept(mix)


def test_a_strength_is_written_with_few_digits():
    assert shortest(float(np.float32(0.7))) == 0.7


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1])
def test_an_impossible_strength_is_refused(make_mixes, strength):
    fields = described(replace(make_mixes()[0], strength=strength))
    with pytest.raises(UserError, match="here has the strength"):
        from_description(fields, bytes, "here")


@pytest.mark.parametrize(("format", "ending"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_a_file_is_named_by_its_content(make_mixes, format, ending):
    assert suffix(make_mixes(format)[0].load(), "here") == ending


def test_batches_hold_everything_in_order():
    assert list(batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []


STRAY = {
    "a file for the class folders": ("data", b"", "is a file, but a folder is needed"),
    "a folder for the table": ("meta.csv/x", b"", "meta.csv cannot be read"),
    "a folder for the list": ("metadata.jsonl/x", b"", "metadata.jsonl cannot be read"),
    "a folder for a shard": ("mixes-000000.tar/x", b"", "mixes-000000.tar cannot be read"),
    "a file for a list": ("data/a/b-1-0.7.png/x", b"", r"b-1-0\.7\.png"),
}


def read_all(folder: Folder) -> None:
    for mix in FORMATS[str(detect(folder))].read(folder):
        mix.load()


@pytest.mark.parametrize("name", STRAY)
def test_what_is_a_file_for_a_folder_or_the_other_way_is_one_sentence(tmp_path, name):
    path, content, why = STRAY[name]
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(content)
    with pytest.raises(UserError, match=why) as caught:
        read_all(Folder(str(tmp_path)))
    assert "\n" not in str(caught.value)
