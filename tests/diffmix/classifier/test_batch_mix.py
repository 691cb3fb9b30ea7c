import numpy as np
import pytest
import torch

from diffmix.classifier.batch_mix import BatchMix, CutMixSampler, uses_pasted_cutmix
from diffmix.config import TrainConfig


def batch():
    torch.manual_seed(0)
    labels = torch.rand(4, 5)
    return torch.rand(4, 3, 8, 8), labels / labels.sum(1, keepdim=True)


def test_off_by_default():
    images, labels = batch()
    same_images, same_labels = BatchMix(TrainConfig(), 5)(images, labels, 1)
    assert same_images is images
    assert same_labels is labels


def test_mixup_mixes_images_and_soft_labels_alike():
    images, labels = batch()
    mixed, new = BatchMix(TrainConfig(mixup_alpha=1.0, mix_probability=1.0), 5)(
        images.clone(), labels, 3
    )
    share = ((mixed - images.flip(0)) / (images - images.flip(0))).median()
    assert 0 < share < 1
    torch.testing.assert_close(
        mixed, share * images + (1 - share) * images.flip(0), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        new, share * labels + (1 - share) * labels.flip(0), atol=1e-4, rtol=0
    )


def test_cutmix_pastes_a_box_and_weighs_labels_by_its_area():
    images, labels = batch()
    mixed, new = BatchMix(TrainConfig(cutmix_alpha=1.0, mix_probability=1.0), 5)(
        images.clone(), labels, 5
    )
    kept = (mixed == images).all(1)
    pasted = (mixed == images.flip(0)).all(1)
    assert (kept | pasted).all()
    assert pasted.any()
    share = kept[0].float().mean()
    torch.testing.assert_close(
        new, share * labels + (1 - share) * labels.flip(0), atol=1e-4, rtol=0
    )


def test_probability_and_seed():
    images, labels = batch()
    mix = BatchMix(TrainConfig(mixup_alpha=1.0, mix_probability=0.5), 5)
    changed = [
        not torch.equal(mix(images.clone(), labels, 0, step)[0], images) for step in range(200)
    ]
    assert sum(changed) / 200 == pytest.approx(0.5, abs=0.12)
    again = [
        not torch.equal(mix(images.clone(), labels, 0, step)[0], images) for step in range(200)
    ]
    assert again == changed


def test_mixup_with_a_permutation_of_an_odd_batch():
    images, labels = batch()
    images, labels = images[:3], labels[:3]
    config = TrainConfig(mixup_alpha=1.0, mix_probability=1.0, mix_form="reference")
    before = images.clone()
    orders = set()
    for step in range(20):
        mixed, new = BatchMix(config, 5)(images, labels, 5, step)
        assert torch.equal(images, before)
        weights = torch.linalg.lstsq(images.flatten(1).T, mixed.flatten(1).T).solution.T
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
        torch.testing.assert_close(new, weights @ labels, atol=1e-4, rtol=0)
        # A sample that is its own partner stays as it is.
        shares = [share for share in weights.flatten().tolist() if 1e-3 < share < 1 - 1e-3]
        assert all(min(abs(s - shares[0]), abs(s + shares[0] - 1)) < 1e-3 for s in shares)
        orders.add(tuple(map(tuple, (weights > 1e-3).tolist())))
    assert len(orders) > 3, "a new permutation each time"


def test_cutmix_of_samples_has_boxes_and_partners_of_its_own():
    config = TrainConfig(cutmix_alpha=1.0, mix_probability=0.5, mix_form="reference")
    assert uses_pasted_cutmix(config)
    assert not uses_pasted_cutmix(TrainConfig(cutmix_alpha=1.0))
    images, labels = batch()
    same, _ = BatchMix(config, 5)(images.clone(), labels, 1)
    assert torch.equal(same, images), "boxes are pasted when samples are read"
    sampler = CutMixSampler(50, config, seed=1)
    found = sampler.epoch(3, steps=100, batch_size=20)
    assert found == sampler.epoch(3, steps=100, batch_size=20)
    assert found != sampler.epoch(4, steps=100, batch_size=20)
    pastes = [one for one in found if one]
    assert len(pastes) / len(found) == pytest.approx(0.5, abs=0.04)
    assert {one.row for one in pastes} == set(range(50))
    for values in ([one.kept for one in pastes], [one.x for one in pastes]):
        assert np.mean(values) == pytest.approx(0.5, abs=0.04)
        assert len(set(values)) == len(values)
