"""The draws of a run: they are those of the global batch, however it is split."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from diffmix.config import PersonalizeConfig
from diffmix.personalize.batches import Batches

LABELS = np.array([0, 0, 1, 1, 1, 2])


class Numbers:
    """Latents whose mean is the image's number, and whose deviation is 0. Views are kept."""

    scale = 1.0

    def __init__(self, cropped: bool = False):
        self.cropped = cropped
        self.views = []

    def __len__(self):
        return len(LABELS)

    def posteriors(self, slots, step, views):
        self.views += views(step)
        mean = np.array([view.image for view in views(step)], np.float32)
        moments = np.stack([mean, np.zeros_like(mean)], axis=1)
        shape = (*moments.shape, 4, 2, 2)
        return torch.from_numpy(np.broadcast_to(moments[..., None, None, None], shape).copy())


def batches(cropped: bool = False, **options) -> Batches:
    config = PersonalizeConfig(**options)
    return Batches(Numbers(cropped), LABELS, config, 1000, seed=5, global_batch=8)


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_parts_of_a_global_batch_add_up_to_it(parts):
    options = {"noise_offset": 0.1, "prompt_dropout": 0.3, "prompts": ("a {token}", "{token}")}
    whole = batches(cropped=True, **options)
    for step in (0, 1, 7):
        split = batches(cropped=True, **options)
        edges = [8 * part // parts for part in range(parts + 1)]
        drawn = [split.draw(step, range(*both), 3, 8 / parts) for both in itertools.pairwise(edges)]
        together = whole.draw(step, range(8), 3)
        for name in ("latents", "noise", "timesteps", "prompts"):
            found = torch.cat([getattr(each, name) for each in drawn])
            assert torch.equal(found, getattr(together, name)), name
        # Gradients are averaged over the parts.
        weights = torch.cat([each.weights for each in drawn]) / parts
        torch.testing.assert_close(weights, together.weights)
        assert split.latents.views == whole.latents.views[-8:]


def test_crops_change_no_other_draw():
    """Square images, which have none, are drawn as they were before there were crops."""
    square, cropped = batches(), batches(cropped=True)
    for step in range(4):
        one, other = (each.draw(step, range(8), 3) for each in (square, cropped))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert {view.place for view in square.latents.views} == {0.0}
    assert [view[:2] for view in square.latents.views] == [
        view[:2] for view in cropped.latents.views
    ]


def test_places_are_uniform_and_new_at_every_step():
    cropped = batches(cropped=True)
    for step in range(250):
        cropped.draw(step, range(8), 3)
    places = [view.place for view in cropped.latents.views]
    assert len(set(places)) == 2000
    tenths = Counter(int(10 * place) for place in places)
    squares = sum((tenths[tenth] - 200) ** 2 / 200 for tenth in range(10))
    assert squares < 27.9  # chi-square of 9 degrees of freedom: .999
