import numpy as np
import pytest

from diffmix.classifier.metrics import accuracy


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
        assert found[f"top{k}"] == pytest.approx(top_k_accuracy_score(labels, logits, k=k, labels=range(20)))
    assert "per_group" not in found
