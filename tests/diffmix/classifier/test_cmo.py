import numpy as np
import pytest
import torch

from diffmix.classifier.cmo import Paste, PasteSampler, paste
from diffmix.config import TrainConfig

LABELS = np.repeat([0, 1, 2], [90, 9, 1])


def box(kept: float, x: float, y: float) -> Paste:
    return Paste(row=0, seed=0, kept=kept, x=x, y=y)


def pastes(epoch=10, steps=400, batch_size=8, seed=0, **settings):
    train = TrainConfig(cmo=True, epochs=20, **settings)
    return PasteSampler(LABELS, train, seed).epoch(epoch, steps, batch_size)


def test_pasted_images_are_class_balanced_and_uniform_within_a_class():
    rows = np.array([one.row for one in pastes(cmo_probability=1.0)])
    shares = np.bincount(LABELS[rows]) / len(rows)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    counts = np.bincount(rows, minlength=100)[:90]
    assert counts.min() > 0
    assert counts.max() < 3 * counts.mean()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_batch_is_pasted_into_as_a_whole_or_not(probability):
    found = pastes(cmo_probability=probability)
    by_batch = [found[i : i + 8] for i in range(0, 800, 8)]
    pasted = [all(batch) for batch in by_batch]
    assert all(any(batch) == all(batch) for batch in by_batch)
    assert np.mean(pasted) == pytest.approx(probability, abs=0.15)
    for batch in by_batch:
        if all(batch):
            assert len({(one.kept, one.x, one.y) for one in batch}) == 1


@pytest.mark.parametrize(
    ("skip", "active"), [((4, 3), range(4, 17)), ((0, 0), range(20)), ((1, 18), [1])]
)
def test_first_and_last_epochs_are_left_alone(skip, active):
    found = [epoch for epoch in range(20) if any(pastes(epoch, steps=20, cmo_skip=skip))]
    assert found == list(active)


def test_draws_repeat_and_differ_between_epochs_and_seeds():
    assert pastes() == pastes()
    assert pastes(epoch=11) != pastes()
    assert pastes(seed=1) != pastes()


@pytest.mark.parametrize(
    "how",
    [
        box(0.75, 0.5, 0.5),
        box(0.5, 0.0, 0.99),
        box(0.999, 0.3, 0.3),
        box(0.0, 0.5, 0.5),
    ],
)
def test_labels_are_weighted_by_the_area_that_is_seen(how):
    image, other = torch.zeros(3, 20, 30), torch.ones(3, 20, 30)
    mixed, label = paste(
        image, np.array([1, 0, 0], np.float32), other, np.array([0, 0.9, 0.1], np.float32), how
    )
    covered = mixed.mean().item()
    np.testing.assert_allclose(label, [1 - covered, 0.9 * covered, 0.1 * covered], atol=1e-6)
    assert label.dtype == np.float32
    assert image.sum() == 0, "the image itself is not changed"


def test_the_box_is_cutmixs():
    image, other, label = torch.zeros(3, 20, 30), torch.ones(3, 20, 30), np.ones(1)
    # A quarter of the area is to be covered: sides are halved, 10 and 15 pixels, counted from the
    # center in whole halves.
    mixed, _ = paste(image, label, other, label, box(0.75, 0.5, 0.5))
    rows, columns = np.nonzero(mixed[0].numpy())
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 14, 8, 21)
    corner, _ = paste(image, label, other, label, box(0.75, 0.0, 0.0))
    assert corner[0].sum() == 5 * 7, "a box at the edge is clipped"
