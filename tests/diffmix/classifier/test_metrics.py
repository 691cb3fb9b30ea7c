import numpy as np
import pytest
import torch

from diffmix.classifier.metrics import accuracy, by_class_size, calibration, confusion, predict
from diffmix.classifier.model import build_model, describe
from diffmix.classifier.transforms import eval_transform
from diffmix.config import TrainConfig
from diffmix.images import decode


def test_worked_by_hand():
    logits = np.array([[3.0, 1, 0], [3.0, 1, 0], [0, 2.0, 1], [0, 1, 2.0]], dtype=np.float32)
    found = accuracy(logits, np.array([0, 1, 1, 2]), ["x", "x", "y", "y"])
    assert found["top1"] == 0.75
    assert found["top5"] == 1.0
    assert found["per_class"] == {0: 1.0, 1: 0.5, 2: 1.0}
    assert found["per_group"] == {"x": 0.5, "y": 1.0}
    assert found["worst_group"] == 0.5


def test_top5_of_many_classes():
    from sklearn.metrics import top_k_accuracy_score

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 20)).astype(np.float32), rng.integers(0, 20, 200)
    found = accuracy(logits, labels)
    for k in (1, 5):
        assert found[f"top{k}"] == pytest.approx(
            top_k_accuracy_score(labels, logits, k=k, labels=range(20))
        )
    assert "per_group" not in found


def test_confusion_equals_sklearns():
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 6))
    labels = rng.integers(0, 5, 200).astype(np.int32)  # class 5 does not occur
    np.testing.assert_array_equal(
        confusion(logits, labels), confusion_matrix(labels, logits.argmax(1), labels=range(6))
    )


def logits_of(confidence: float) -> list[float]:
    """Two classes; the first has this probability."""
    return [float(np.log(confidence / (1 - confidence))), 0.0]


def test_calibration_worked_by_hand():
    # Bins of a fifth: (0.6, 0.8] holds 0.7 (right), 0.7 (wrong), 0.8 (right); (0.8, 1] holds 0.9
    # (right).
    logits = np.array([logits_of(c) for c in (0.7, 0.7, 0.8 - 1e-9, 0.9)])
    found = calibration(logits, np.array([0, 1, 0, 0]), bins=5)
    assert [one["images"] for one in found["bins"]] == [3, 1]
    assert found["bins"][0]["accuracy"] == pytest.approx(2 / 3)
    assert found["bins"][0]["confidence"] == pytest.approx(2.2 / 3)
    assert found["ece"] == pytest.approx((3 * (2.2 - 2) / 3 + 0.1) / 4)
    near = np.array([logits_of(0.7), logits_of(0.75)])
    assert len(calibration(near, np.array([0, 0]))["bins"]) == 2, "15 bins part 0.7 from 0.75"


def test_calibration_of_honest_probabilities_is_small_and_of_boasting_ones_large():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 4)) * 2
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probability.cumsum(1) < rng.random((20000, 1))).sum(1)
    assert calibration(logits, labels)["ece"] < 0.02
    assert calibration(10 * logits, labels)["ece"] > 0.2


def test_many_medium_and_few():
    per_class = {"0": 1.0, "1": 0.5, "2": 0.25, "3": 0.75, "4": 0.0}
    sizes = np.array([21, 20, 5, 4, 100])
    assert by_class_size(per_class, sizes, 20, 5) == {"many": 0.5, "medium": 0.375, "few": 0.75}
    assert by_class_size(per_class, sizes, 30, 10) == {"many": 0.0, "medium": 0.75, "few": 0.5}
    assert by_class_size(per_class, np.full(5, 10), 20, 5) == {}, "there is nothing to compare"


def test_predictions_by_hand_with_workers_and_in_half_precision(tiny_real):
    config = TrainConfig(model_name="resnet10t", pretrained=False, resolution=32)
    model, description = build_model(config, 4).eval(), describe(config, tiny_real.class_names)
    rows = np.array([3, 0, 11])
    transform = eval_transform(description)
    images = torch.stack([transform(decode(tiny_real.image_bytes(int(row)))) for row in rows])
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(predict(model, description, tiny_real, rows), expected, rtol=1e-5)
    by_others = predict(model, description, tiny_real, rows, batch_size=2, workers=1)
    np.testing.assert_allclose(by_others, expected, rtol=1e-4, atol=1e-5)
    half = predict(model, description, tiny_real, rows, dtype=torch.bfloat16)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - expected).max() < 0.05 * np.abs(expected).max()
    assert predict(model, description, tiny_real, rows[:0]).shape == (0, 4)
