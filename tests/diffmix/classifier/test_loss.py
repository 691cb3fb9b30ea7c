import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from diffmix.classifier.loss import (
    Loss,
    class_balanced_weights,
    cross_entropy,
    focal,
    ldam,
    ldam_margins,
)
from diffmix.config import TrainConfig

SIZES = np.array([100, 40, 10, 5, 1])


def batch(soft: bool = True):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 5, generator=generator)
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    labels = torch.rand(6, 5, generator=generator) if soft else torch.eye(5)[target]
    return logits, labels, target


def loss(logits, labels, epoch=0, **settings) -> torch.Tensor:
    return Loss(TrainConfig(**settings), SIZES)(logits, labels, epoch)


def test_hard_labels_equal_torchs_cross_entropy():
    logits, labels, target = batch(soft=False)
    torch.testing.assert_close(
        loss(logits, labels), torch.nn.functional.cross_entropy(logits, target)
    )


def test_soft_labels_equal_torchs_cross_entropy_of_probabilities():
    logits, labels, _ = batch()
    torch.testing.assert_close(
        loss(logits, labels), torch.nn.functional.cross_entropy(logits, labels)
    )


def test_half_precision_is_summed_in_fp32():
    assert loss(torch.zeros(1, 5, dtype=torch.bfloat16), torch.eye(5)[:1]).dtype == torch.float32


def published_ldam(
    cosines: np.ndarray, target: np.ndarray, max_margin: float, scale: float
) -> np.ndarray:
    """Cao et al., equation 10 and algorithm 1, one sample after the other: [B] losses."""
    margins = max_margin * (1 / SIZES**0.25) / (1 / SIZES**0.25).max()
    found = []
    for row, label in zip(cosines, target, strict=True):
        lowered = row.copy()
        lowered[label] -= margins[label]
        found.append(-log_softmax(scale * lowered)[label])
    return np.array(found)


@pytest.mark.parametrize("settings", [{}, {"ldam_max_margin": 0.2}, {"ldam_scale": 10.0}])
def test_ldam_of_hard_labels_is_the_published_definition(settings):
    _, labels, target = batch(soft=False)
    cosines = np.random.default_rng(0).uniform(-1, 1, (6, 5))
    scale = settings.get("ldam_scale", 30.0)
    expected = published_ldam(cosines, target.numpy(), settings.get("ldam_max_margin", 0.5), scale)
    found = loss(torch.tensor(scale * cosines), labels, loss="ldam", **settings)
    assert found.item() == pytest.approx(expected.mean(), rel=1e-5)


def test_ldam_of_soft_labels_is_the_mean_over_their_classes():
    logits, labels, _ = batch()
    expected = sum(
        labels[row, c].item()
        * published_ldam(logits[row : row + 1].numpy() / 30, np.array([c]), 0.5, 30.0)[0]
        for row in range(6)
        for c in range(5)
    )
    assert loss(logits, labels, loss="ldam").item() == pytest.approx(expected / 6, rel=1e-5)


def test_ldam_has_finite_values_and_gradients_where_a_class_is_certain():
    logits = torch.tensor(
        [[30.0, -30.0, -30.0, -30.0, -30.0], [0.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True
    )
    value = loss(logits, torch.full((2, 5), 0.2), loss="ldam")
    expected = np.mean(
        [
            published_ldam(logits.detach().numpy()[[r]] / 30, np.array([c]), 0.5, 30.0)[0]
            for r in (0, 1)
            for c in range(5)
        ]
    )
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert torch.isfinite(logits.grad).all()


def test_balanced_softmax_weighs_the_partition_by_class_size():
    logits, labels, _ = batch()
    z = logits.double().numpy()
    probability = SIZES * np.exp(z) / (SIZES * np.exp(z)).sum(1, keepdims=True)
    assert loss(logits, labels, loss="balanced-softmax").item() == pytest.approx(
        -(labels.numpy() * np.log(probability)).sum(1).mean()
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(gamma):
    logits, labels, _ = batch()
    p = softmax(logits.double().numpy(), axis=1)
    expected = -(labels.numpy() * (1 - p) ** gamma * np.log(p)).sum(1).mean()
    assert loss(logits, labels, loss="focal", focal_gamma=gamma).item() == pytest.approx(expected)


MARGINS = 30 * torch.tensor(ldam_margins(SIZES, 0.5))


@pytest.mark.parametrize(
    "of_classes",
    [cross_entropy, lambda z: ldam(z, MARGINS), lambda z: focal(z, 2.0)],
    ids=["ce", "ldam", "focal"],
)
def test_gradients_are_those_of_finite_differences(of_classes):
    logits = batch()[0].double().requires_grad_()
    assert torch.autograd.gradcheck(of_classes, logits)


@pytest.mark.parametrize("name", ["ce", "ldam", "balanced-softmax", "focal"])
def test_losses_are_linear_in_the_label(name):
    logits, first, _ = batch()
    second = first.flip(0)
    mixed = loss(logits, 0.3 * first + 0.7 * second, loss=name)
    torch.testing.assert_close(
        mixed, 0.3 * loss(logits, first, loss=name) + 0.7 * loss(logits, second, loss=name)
    )


def test_class_balanced_weights_worked_by_hand():
    # beta 0.5: effective numbers 1, 1.5, 1.75
    np.testing.assert_allclose(
        class_balanced_weights(np.array([1, 2, 3]), 0.5),
        np.array([1, 2 / 3, 4 / 7]) * 3 / (1 + 2 / 3 + 4 / 7),
    )
    np.testing.assert_allclose(class_balanced_weights(SIZES, 0.0), 1)
    inverse = (1 / SIZES) / (1 / SIZES).mean()
    np.testing.assert_allclose(class_balanced_weights(SIZES, 0.9999999), inverse, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.9, 0.9999])
def test_reweighted_hard_labels_equal_torchs_weighted_cross_entropy(beta):
    logits, labels, target = batch(soft=False)
    weights = torch.tensor(class_balanced_weights(SIZES, beta), dtype=torch.float32)
    expected = torch.nn.functional.cross_entropy(logits, target, weight=weights)
    torch.testing.assert_close(
        loss(logits, labels, reweight="class-balanced", reweight_beta=beta), expected
    )


def test_reweighting_keeps_a_soft_labels_mass():
    logits, labels, _ = batch()
    same = {"reweight": "class-balanced", "reweight_beta": 0.0}
    torch.testing.assert_close(loss(logits, 0.9 * labels, **same), loss(logits, 0.9 * labels))


def test_drw_starts_late():
    logits, labels, _ = batch()
    plain, weighted = loss(logits, labels), loss(logits, labels, reweight="class-balanced")
    assert plain != weighted
    assert loss(logits, labels, epoch=159, reweight="drw") == plain
    assert loss(logits, labels, epoch=160, reweight="drw") == weighted
    assert loss(logits, labels, epoch=7, reweight="drw", drw_epoch=7) == weighted


def test_weights_over_soft_labels_are_normalized_as_torch_does_where_that_is_asked_for():
    weights = class_balanced_weights(SIZES, 0.9999)
    assert weights.mean() == pytest.approx(1)
    config = TrainConfig(reweight="class-balanced", reweight_mean="torch")
    logits, soft, _ = batch()
    as_torch = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float32))
    torch.testing.assert_close(Loss(config, SIZES)(logits, soft, 0), as_torch(logits, soft))
    _, hard, target = batch(soft=False)
    without_mixes = Loss(config, SIZES, has_mixes=False)
    torch.testing.assert_close(without_mixes(logits, hard, 0), as_torch(logits, target))
    torch.testing.assert_close(
        loss(logits, hard, reweight="class-balanced"), as_torch(logits, target)
    )


def test_ldam_on_a_plain_head_scales_logits():
    _, labels, target = batch(soft=False)
    logits = np.random.default_rng(0).uniform(-2, 2, (6, 5))
    expected = published_ldam(logits, target.numpy(), 0.5, 30.0)
    found = loss(torch.tensor(logits), labels, loss="ldam", ldam_head="plain")
    assert found.item() == pytest.approx(expected.mean(), rel=1e-5)
