"""The reference implementation's transforms, schedules, labels and draws, written anew from their
formulas, against ours over random inputs.
"""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from diffmix import labels
from diffmix.classifier.cmo import Paste, paste
from diffmix.classifier.model import describe
from diffmix.classifier.schedule import Schedule
from diffmix.classifier.target_draw import TargetDraw, inverse_weights
from diffmix.classifier.transforms import eval_transform, train_transform
from diffmix.config import TrainConfig
from diffmix.datasets.splits import few_shot, long_tail

NORMALIZE = [T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
SQUASH = {"resize_mode": "squash", "crop_padding": 8, "flip": True}
LONG_TAIL = {"resized_crop": True, "color_jitter": 0.4, "hue": 0.0, "flip": True}


def picture(random: np.random.Generator) -> Image.Image:
    height, width = random.integers(40, 700, 2)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def same(ours: T.Compose, theirs: T.Compose, image: Image.Image, seed: int) -> bool:
    torch.manual_seed(seed)
    first = ours(image)
    torch.manual_seed(seed)
    return torch.equal(first, theirs(image))


@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (512, 448), (440, 384)])
def test_transforms(resize, crop):
    """`Resize((a, a))`, `RandomCrop(c, padding=8)` and a flip; in tests `CenterCrop((c, c))`."""
    config = TrainConfig(model_name="resnet50.tv_in1k", resolution=crop, resize=resize, **SQUASH)
    model = describe(config, ["a"])
    train = T.Compose(
        [
            T.Resize((resize, resize)),
            T.RandomCrop(crop, padding=8),
            T.RandomHorizontalFlip(),
            *NORMALIZE,
        ]
    )
    test = T.Compose([T.Resize((resize, resize)), T.CenterCrop((crop, crop)), *NORMALIZE])
    random = np.random.default_rng(crop)
    for seed in range(6):
        image = picture(random)
        assert same(train_transform(config, model), train, image, seed)
        assert same(eval_transform(model), test, image, seed)


def test_transforms_of_long_tails():
    config = TrainConfig(model_name="resnet50.tv_in1k", resolution=224, resize=256, **LONG_TAIL)
    model = describe(config, ["a"])
    train = T.Compose(
        [
            T.RandomResizedCrop(224),
            T.RandomHorizontalFlip(),
            T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0),
            *NORMALIZE,
        ]
    )
    test = T.Compose([T.Resize(256), T.CenterCrop(224), *NORMALIZE])
    random = np.random.default_rng(0)
    for seed in range(6):
        image = picture(random)
        assert same(train_transform(config, model), train, image, seed)
        assert same(eval_transform(model), test, image, seed)


def rates_of_train_hub(images: int, batch: int, epochs: int, peak: float) -> list[float]:
    """The rate of each step: torch's cosine over T steps, and on it a linear warm-up over a tenth
    of them that dampens what the cosine has come to. Batches that are too small take no step of
    either.
    """
    batch = min(batch, images)
    total = epochs * images // batch
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    period = max(int(0.1 * total), 1)
    found = []
    for _ in range(epochs):
        for first in range(0, images, batch):
            if images - first < batch:
                continue
            found.append(cosine.get_last_lr()[0] * min(1.0, (len(found) + 1) / period))
            optimizer.step()
            cosine.step()
    return found


@pytest.mark.parametrize("seed", range(8))
def test_schedule(seed):
    random = np.random.default_rng(seed)
    images, batch = int(random.integers(20, 3000)), int(random.choice([32, 64, 256]))
    epochs, peak = int(random.integers(1, 130)), float(random.choice([0.005, 0.05, 0.1]))
    config = TrainConfig(protocol="reference", batch_size=batch, epochs=epochs, lr=peak)
    schedule = Schedule(config, images)
    ours = [schedule.rate(step) for step in range(epochs * schedule.steps)]
    assert ours == pytest.approx(rates_of_train_hub(images, batch, epochs, peak), rel=1e-9)
    assert [e for e in range(epochs) if schedule.validates(e)] == list(range(0, epochs, 4))


@pytest.mark.parametrize("seed", range(4))
def test_schedule_of_long_tails(seed):
    random = np.random.default_rng(seed)
    images, peak = int(random.integers(130, 3000)), float(random.choice([0.005, 0.01]))
    config = TrainConfig(
        protocol="reference",
        batch_size=128,
        epochs=200,
        lr=peak,
        warmup_fraction=0.025,
        lr_drop_epochs=(160, 180),
        lr_per="epoch",
        last_batch="short",
        eval_every=1,
    )
    schedule = Schedule(config, images)
    expected = []
    for epoch in range(1, 201):
        if epoch <= 5:
            rate = peak * epoch / 5
        elif epoch > 180:
            rate = peak * 0.0001
        else:
            rate = peak * 0.01 if epoch > 160 else peak
        expected += [rate] * math.ceil(images / 128)
    assert schedule.samples == images
    assert [schedule.rate(step) for step in range(len(expected))] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_labels(seed):
    """Source and target are added, so that a mix within a class has all of it; then 0.1 / (C - 1)
    is added to nine tenths of the label.
    """
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 200))
    source, target = random.integers(0, classes, (2, 50))
    target[:5] = source[:5]
    strength, gamma = random.uniform(0.1, 1, 50), float(random.choice([0.5, 0.8, 1.0]))
    scale = float(random.choice([0.9, 1.0]))
    ours = labels.smooth(
        labels.soft_label(source, target, strength, gamma, classes, scale), 0.1, "others"
    )
    for row, one, other, share in zip(ours, source, target, strength**gamma, strict=True):
        expected = np.full(classes, 0.1 / (classes - 1))
        expected[one] += 0.9 * scale * (1 - share)
        expected[other] += 0.9 * scale * share
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-8)
    real = labels.smooth(labels.one_hot(source, classes), 0.1, "others")
    expected = 0.9 * np.eye(classes)[source] + 0.1 / (classes - 1)
    np.testing.assert_allclose(real, expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_draws(seed):
    """A class with probability 1 / (n + 1), normalized, then one of its mixes."""
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 40))
    sizes, targets = random.integers(1, 50, classes), random.integers(0, classes, 400)
    targets[:classes] = np.arange(classes)
    weights = [1 / (size + 1) for size in sizes]
    upper = np.cumsum([weight / sum(weights) for weight in weights])
    draw = TargetDraw(inverse_weights(sizes), lambda start: targets[start:])
    for share, other in random.random((300, 2)):
        wanted = int(np.searchsorted(upper, share, side="right"))
        of_class = np.flatnonzero(targets == wanted)
        assert draw(share, other) == of_class[int(other * len(of_class))]


@pytest.mark.parametrize("seed", range(5))
def test_class_sizes_of_long_tails_and_few_shots(seed):
    """`max(1, int(mean * factor ** (i / (C - 2))))` for the i-th largest class, of those."""
    random = np.random.default_rng(seed)
    classes, factor = int(random.integers(3, 60)), float(random.choice([0.01, 0.02, 0.05, 0.1]))
    found = np.repeat(np.arange(classes), random.integers(20, 60, classes))
    sizes = sorted(Counter(found.tolist()).values(), reverse=True)
    mean = len(found) / classes
    expected = [
        min(max(int(mean * factor ** (i / (classes - 2.0))), 1), sizes[i]) for i in range(classes)
    ]
    kept = Counter(found[long_tail(found, factor, seed)].tolist())
    assert sorted(kept.values(), reverse=True) == sorted(expected, reverse=True)
    shots = Counter(found[few_shot(found, 5, seed)].tolist())
    assert set(shots.values()) == {5}
    assert len(shots) == classes


@pytest.mark.parametrize("seed", range(5))
def test_the_box_of_cutmix(seed):
    random = np.random.default_rng(seed)
    height, width = random.integers(10, 60, 2)
    image, other = torch.zeros(1, height, width), torch.ones(1, height, width)
    for _ in range(50):
        kept, x, y = random.random(3)
        how = Paste(row=0, seed=0, kept=kept, x=x, y=y)
        mixed, label = paste(image, np.float32([1, 0]), other, np.float32([0, 1]), how)
        cut = np.sqrt(1.0 - kept)
        expected = torch.zeros(1, height, width)
        sides = []
        for length, center in ((height, int(y * height)), (width, int(x * width))):
            half = int(length * cut) // 2
            sides.append(slice(*np.clip([center - half, center + half], 0, length)))
        expected[:, sides[0], sides[1]] = 1
        assert torch.equal(mixed, expected)
        np.testing.assert_allclose(label[1], expected.mean(), rtol=1e-5, atol=1e-7)
