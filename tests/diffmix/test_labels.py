import numpy as np
import pytest
from jaxtyping import TypeCheckError

from diffmix.labels import one_hot, smooth, soft_label


def test_worked_by_hand():
    # s = 0.25, gamma = 0.5: s ** gamma = 0.5
    np.testing.assert_allclose(soft_label(0, 2, 0.25, 0.5, 4), [0.5, 0, 0.5, 0])
    # s = 0.7, gamma = 0.5: 0.83666
    np.testing.assert_allclose(soft_label(1, 0, 0.7, 0.5, 2), [0.83666, 0.16334], atol=1e-5)


def test_self_pair_gets_everything():
    np.testing.assert_allclose(soft_label(1, 1, 0.3, 0.8, 3), [0, 1, 0])


def test_vectorized_equals_one_by_one():
    source, target, strength = [0, 1, 2], [2, 2, 2], [0.1, 0.5, 1.0]
    rows = soft_label(source, target, strength, 0.8, 5, scale=0.9)
    assert rows.shape == (3, 5)
    for i in range(3):
        np.testing.assert_array_equal(
            rows[i], soft_label(source[i], target[i], strength[i], 0.8, 5, scale=0.9)
        )
    np.testing.assert_allclose(rows.sum(1), 0.9, rtol=1e-6)


def test_full_strength_is_the_target():
    np.testing.assert_array_equal(soft_label(0, 1, 1.0, 0.5, 2), [0, 1])


@pytest.mark.parametrize("bad", [-1, 3])
def test_index_outside(bad):
    with pytest.raises(ValueError, match=r"0\.\.2"):
        soft_label(0, bad, 0.5, 0.5, 3)


def test_shapes_and_dtypes_are_checked_while_tests_run():
    """An option of pytest in pyproject.toml checks the annotations of `diffmix`."""
    with pytest.raises(TypeCheckError, match="parameter 'label'"):
        smooth(np.array([0, 1]), 0.1)
    with pytest.raises(TypeCheckError, match="parameter 'target'"):
        soft_label(np.array([0, 1]), np.array([0, 1, 2]), 0.5, 0.5, 3)


def test_one_hot():
    np.testing.assert_array_equal(one_hot([1, 0], 2), [[0, 1], [1, 0]])


def test_smoothing_worked_by_hand_keeps_the_sum():
    np.testing.assert_allclose(smooth(np.array([1.0, 0, 0, 0]), 0.1), [0.925, 0.025, 0.025, 0.025])
    rows = soft_label([0, 1], [2, 2], 0.5, 0.8, 4, scale=0.9)
    np.testing.assert_allclose(smooth(rows, 0.1), 0.9 * rows + 0.1 * 0.9 / 4, rtol=1e-6)
    assert smooth(rows, 0.1).dtype == np.float32


def test_smoothing_as_if_the_own_class_were_left_out():
    """The reference implementation's: C = 4, s = 0.7, gamma = 0.5, scale 0.9."""
    mix = soft_label(0, 1, 0.7, 0.5, 4, scale=0.9)
    np.testing.assert_allclose(
        smooth(mix, 0.1, "others"), [0.1656, 0.7110, 0.0333, 0.0333], atol=5e-5
    )
    real = smooth(one_hot([2], 4), 0.1, "others")
    np.testing.assert_allclose(real, [[0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3]], rtol=1e-6)
    assert real.dtype == np.float32
