import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from diffmix.classifier.batch_mix import CutMixSampler
from diffmix.classifier.cmo import Paste, PasteSampler
from diffmix.classifier.samples import Draw, MixedSampler, MixedSamples
from diffmix.config import MixConfig, TrainConfig
from diffmix.datasets.real import Example, RealSet
from diffmix.labels import soft_label


def draws(epoch=0, **changes) -> list[Draw]:
    settings = {
        "real_size": 50,
        "synthetic_p": 0.3,
        "pool_size": lambda: 20,
        "batch_size": 8,
        "seed": 1,
        **changes,
    }
    sampler = MixedSampler(**settings)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_without_mixes_an_epoch_is_every_image_once_and_full_batches():
    rows = [draw.row for draw in draws(synthetic_p=0.0)]
    assert len(rows) == 56
    assert sorted(rows[:50]) == list(range(50))


def test_share_of_mixes_is_p():
    found = draws(real_size=20000)
    assert abs(np.mean([draw.synthetic for draw in found]) - 0.3) < 0.01
    assert {draw.row for draw in found if draw.synthetic} == set(range(20))


def test_empty_pool_means_real_images():
    assert not any(draw.synthetic for draw in draws(pool_size=lambda: 0))


def test_pool_is_asked_at_each_draw():
    size = iter(range(1, 10**6))
    assert max(draw.row for draw in draws(synthetic_p=1.0, pool_size=lambda: next(size))) > 20


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_same_epoch(world_size):
    whole = draws()
    parts = [draws(rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [part[i] for i in range(len(parts[0])) for part in parts] == whole


def test_epochs_and_seeds_differ_and_repeat():
    assert draws(epoch=3) == draws(epoch=3)
    assert draws(epoch=3) != draws(epoch=4)
    assert draws(seed=2) != draws(seed=1)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def samples(tmp_path):
    """A function that gives `MixedSamples` of one real image (class 2) and one mix (0 into 1)."""

    def make(shade: int, transform=functional.to_tensor, **options) -> MixedSamples:
        example = Example("0.png", png(shade), 2)
        real = RealSet.write(str(tmp_path / "real.arrow"), [example], ["a", "b", "c"], "thing")
        mix = MixConfig(gamma=0.5, soft_scale=options.pop("soft_scale", 1.0))
        mixes = [(png(0), 0, 1, 0.25)]
        return MixedSamples(real, mixes, transform, mix, TrainConfig(**options))

    return make


def test_samples_and_labels(samples):
    found = samples(255, soft_scale=0.9, label_smoothing=0.0)
    image, label, synthetic = found[Draw(False, 0, 0)]
    assert image.min() == 1
    assert label.tolist() == [0, 0, 1]
    assert not synthetic
    image, label, synthetic = found[Draw(True, 0, 0)]
    assert image.max() == 0
    np.testing.assert_array_equal(label, soft_label(0, 1, 0.25, 0.5, 3, 0.9))
    assert synthetic


def test_augmentation_depends_on_the_draws_seed_alone(samples):
    def noise(image):
        return functional.to_tensor(image) + torch.rand(3, 4, 4)

    found = samples(0, noise)
    first = found[Draw(False, 0, 5)][0]
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    assert torch.equal(found[Draw(False, 0, 5)][0], first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(found[Draw(False, 0, 6)][0], first)


@pytest.mark.parametrize("smooth_mixes", [True, False])
def test_smoothing_of_real_images_and_of_mixes(samples, smooth_mixes):
    found = samples(255, soft_scale=0.9, label_smoothing=0.3, smooth_mixes=smooth_mixes)
    np.testing.assert_allclose(found[Draw(False, 0, 0)][1], [0.1, 0.1, 0.8], rtol=1e-6)
    # By hand: 0.9 * (0.5, 0.5, 0), then 0.7 of it and 0.3 * 0.9 / 3 for each class.
    expected = [0.405, 0.405, 0.09] if smooth_mixes else [0.45, 0.45, 0.0]
    np.testing.assert_allclose(found[Draw(True, 0, 0)][1], expected, rtol=1e-6)


def test_cmo_pastes_a_real_image_into_a_mix(samples):
    middle = Paste(row=0, seed=0, kept=0.75, x=0.5, y=0.5)
    image, label, synthetic = samples(255, label_smoothing=0.0)[Draw(True, 0, 0, middle)]
    assert image.mean() == 0.25
    np.testing.assert_allclose(label, [0.375, 0.375, 0.25])
    assert synthetic


def test_cmo_changes_nothing_else_and_is_shared_by_ranks():
    labels = np.arange(50) % 3
    pastes = PasteSampler(labels, TrainConfig(cmo=True, epochs=9), 1)
    assert [draw._replace(paste=None) for draw in draws(epoch=5, pastes=pastes)] == draws(epoch=5)
    whole = draws(epoch=5, pastes=pastes)
    assert any(draw.paste for draw in whole)
    parts = [draws(epoch=5, pastes=pastes, rank=rank, world_size=2) for rank in range(2)]
    assert [part[i] for i in range(len(parts[0])) for part in parts] == whole
    assert not any(draw.paste for draw in draws(epoch=0, pastes=pastes))


def test_an_epoch_of_another_length():
    short = draws(samples=53, synthetic_p=0.0)
    assert len(short) == 53
    assert sorted(draw.row for draw in short[:50]) == list(range(50))
    skipped = [draw.row for draw in draws(samples=48, synthetic_p=0.0)]
    assert len(set(skipped)) == 48


def test_mixes_that_are_picked_in_another_way_leave_the_rest_as_it_is():
    plain, picked = draws(), draws(pick=lambda share, other: 100 + int(2 * other))
    mixes = [one for one in picked if one.synthetic]
    assert {one.row for one in mixes} == {100, 101}
    assert [one._replace(row=0) for one in plain if one.synthetic] == [
        one._replace(row=0) for one in mixes
    ]
    assert [one for one in plain if not one.synthetic] == [
        one for one in picked if not one.synthetic
    ]
    assert not any(one.synthetic for one in draws(pool_size=lambda: 0, pick=lambda *_: 1 / 0))


def test_cutmix_cuts_from_mixes_as_often_as_samples_are_mixes():
    config = TrainConfig(cutmix_alpha=1.0, mix_probability=1.0, mix_form="reference")
    pastes = CutMixSampler(5000, config, 1)
    found = draws(real_size=5000, pastes=pastes)
    assert np.mean([one.paste.synthetic for one in found]) == pytest.approx(0.3, abs=0.03)
    assert {one.paste.row for one in found if one.paste.synthetic} == set(range(20))
    assert not any(one.paste.synthetic for one in draws(pastes=pastes, pool_size=lambda: 0))
    assert [one._replace(paste=None) for one in found] == draws(real_size=5000)


def test_cmo_may_paste_mixes_too():
    labels = np.arange(50) % 3
    config = TrainConfig(cmo=True, cmo_mixes=True, cmo_probability=1.0, cmo_skip=(0, 0))
    found = draws(pastes=PasteSampler(labels, config, 1))
    assert any(one.paste.synthetic for one in found)
    assert not all(one.paste.synthetic for one in found)


def test_a_mix_is_pasted_with_its_own_label(samples):
    middle = Paste(row=0, seed=0, kept=0.75, x=0.5, y=0.5, synthetic=True)
    image, label, synthetic = samples(255, label_smoothing=0.0)[Draw(False, 0, 0, middle)]
    assert image.mean() == 0.75
    np.testing.assert_allclose(label, [0.125, 0.125, 0.75])
    assert not synthetic


def test_smoothing_has_two_forms(samples):
    found = samples(255, label_smoothing=0.3, smoothing_form="others", soft_scale=0.9)
    np.testing.assert_allclose(found[Draw(False, 0, 0)][1], [0.15, 0.15, 0.85], rtol=1e-6)
    # By hand: 0.7 * 0.9 * (0.5, 0.5, 0), and 0.3 / 2 for each class.
    np.testing.assert_allclose(found[Draw(True, 0, 0)][1], [0.465, 0.465, 0.15], rtol=1e-6)
