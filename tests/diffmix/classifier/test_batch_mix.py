import pytest
import torch

from diffmix.classifier.batch_mix import BatchMix
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
