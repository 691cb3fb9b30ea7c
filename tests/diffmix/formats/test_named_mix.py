"""Descriptions of mixes; round trips through files are in the tests of each layout."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffmix.errors import UserError
from diffmix.formats.named_mix import batches, described, from_description, shortest, suffix


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
