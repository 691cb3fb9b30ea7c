import math

import pytest
import torch

from diffmix.classifier.loss import learning_rate, soft_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_labels_equal_torchs_loss(smoothing):
    torch.manual_seed(0)
    logits, target = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing)
    assert torch.allclose(soft_cross_entropy(logits, torch.eye(5)[target], smoothing), expected)


def test_soft_labels_equal_torchs_loss_of_probabilities():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.rand(6, 5)
    assert torch.allclose(soft_cross_entropy(logits, labels), torch.nn.functional.cross_entropy(logits, labels))


def test_half_precision_is_summed_in_fp32():
    logits = torch.tensor([[20.0, 0.0]], dtype=torch.bfloat16)
    assert soft_cross_entropy(logits, torch.tensor([[1.0, 0.0]])).dtype == torch.float32


def test_schedule():
    rates = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)  # half of the cosine's 90 steps
    assert rates[99] == pytest.approx(1 + math.cos(math.pi * 89 / 90))
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_no_warm_up():
    assert learning_rate(0, 10, 1.0, 0.0) == 1.0
