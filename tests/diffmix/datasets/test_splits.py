import numpy as np
import pytest

from diffmix.config import DataConfig
from diffmix.datasets.splits import choose, few_shot, long_tail, stratified


def labels_of(counts):
    return (
        np.random.default_rng(1)
        .permutation(np.repeat(np.arange(len(counts)), counts))
        .astype(np.int32)
    )


def count(labels, indices, classes):
    return np.bincount(labels[indices], minlength=classes).tolist()


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.99])
def test_stratified_is_a_partition_and_keeps_every_class(fraction):
    labels = labels_of([1, 2, 3, 10, 100])
    kept, held_out = stratified(labels, fraction, seed=0)
    assert sorted([*kept, *held_out]) == list(range(116))
    assert min(count(labels, kept, 5)) >= 1
    assert count(labels, held_out, 5)[0] == 0
    assert min(count(labels, held_out, 5)[1:]) >= 1


def test_stratified_counts_by_hand():
    labels = labels_of([1, 2, 3, 10, 100])
    _, held_out = stratified(labels, 0.2, seed=0)
    assert count(labels, held_out, 5) == [0, 1, 1, 2, 20]


def test_stratified_of_nothing():
    kept, held_out = stratified(labels_of([3, 3]), 0.0, seed=0)
    assert (kept.tolist(), held_out.tolist()) == ([0, 1, 2, 3, 4, 5], [])


@pytest.mark.parametrize(
    "split",
    [
        lambda a, s: stratified(a, 0.3, s)[1],
        lambda a, s: few_shot(a, 4, s),
        lambda a, s: long_tail(a, 0.1, s),
    ],
)
def test_the_seed_decides(split):
    labels = labels_of([20] * 5)
    assert (split(labels, 1) == split(labels, 1)).all()
    assert set(split(labels, 1).tolist()) != set(split(labels, 2).tolist())
    assert (np.diff(split(labels, 1)) >= 0).all()


def test_a_class_does_not_depend_on_the_others():
    labels = labels_of([20, 20, 20])
    merged = np.where(labels == 2, 1, labels)
    mine = [i for i in few_shot(labels, 5, 0) if labels[i] == 0]
    assert [i for i in few_shot(merged, 5, 0) if labels[i] == 0] == mine


def test_few_shot_takes_k_and_repeats_only_where_it_must():
    labels = labels_of([3, 5, 50])
    indices = few_shot(labels, 5, seed=0)
    assert count(labels, indices, 3) == [5, 5, 5]
    assert len({i for i in indices if labels[i] == 1}) == 5
    assert len({i for i in indices if labels[i] == 2}) == 5
    assert len({i for i in indices if labels[i] == 0}) <= 3


def test_fewer_shots_are_among_more():
    labels = labels_of([10, 20])
    assert (
        set(few_shot(labels, 1, 7)) <= set(few_shot(labels, 5, 7)) <= set(few_shot(labels, 10, 7))
    )


def test_long_tail_counts_by_hand():
    # 6 classes of 120 images: mean 120, exponents i/4 of 0.01: 1, 10^-.5, 10^-1, 10^-1.5, 10^-2,
    # 10^-2.5 120 * those: 120, 37.9, 12, 3.79, 1.2, 0.379 -> floor, at least 1
    labels = labels_of([120] * 6)
    assert count(labels, long_tail(labels, 0.01, seed=0), 6) == [120, 37, 12, 3, 1, 1]


def test_long_tail_ranks_by_size_and_never_exceeds_what_is_there():
    # Sizes 2, 30, 10, 18: mean 15, by size class 1, 3, 2, 0 with factors 1, .5, .25, .125 -> 15,
    # 7.5, 3.75, 1.875
    labels = labels_of([2, 30, 10, 18])
    assert count(labels, long_tail(labels, 0.25, seed=0), 4) == [1, 15, 3, 7]
    # Sizes 1, 1, 100: mean 34; the ranks 1 and 2 ask for 34 * .9 and 34 * .81, but have 1.
    labels = labels_of([1, 1, 100])
    assert count(labels, long_tail(labels, 0.9, seed=0), 3) == [1, 1, 34]


def test_long_tail_of_two_classes():
    labels = labels_of([40, 40])
    assert count(labels, long_tail(labels, 0.1, seed=0), 2) == [40, 4]


# Which images form each set


def chosen(labels, own_test=True, **options):
    """The indices of each set, of what is not drawn, and the notes."""
    names = [f"class {label}" for label in range(int(labels.max()) + 1)]
    splits = {"train": labels, **({"test": np.arange(len(names))} if own_test else {})}
    found = choose(DataConfig(**options), splits, names)
    return {name: ids for name, (_, ids) in found.chosen.items()}, found.not_drawn, found.notes


def test_as_many_shots_as_images_are_all_different():
    labels = labels_of([5, 5, 5])
    sets, not_drawn, notes = chosen(labels, shots=5)
    assert sets["train"].tolist() == list(range(15))
    assert len(sets["val"]) == len(not_drawn) == 0
    assert notes == ["no images are left for validation images, so there are none"]


def test_validation_has_its_share_of_the_full_size_but_what_is_left_at_most():
    labels = labels_of([30, 8, 6, 5, 3])
    sets, not_drawn, notes = chosen(labels, shots=5, val_fraction=0.25)
    assert count(labels, sets["train"], 5) == [5, 5, 5, 5, 5]
    assert count(labels, sets["val"], 5) == [8, 2, 1, 0, 0]  # a quarter of 30, 8, 6; 3, 1, 0 left
    assert not set(sets["train"]) & set(sets["val"])
    assert sorted({*sets["train"], *sets["val"], *not_drawn}) == list(range(52))
    assert notes == [
        "1 of 5 classes have fewer than 5 images, so theirs are drawn with replacement: 'class 4'",
        "2 of 5 classes have no validation images: 'class 3', 'class 4'",
    ]


def test_one_shot_and_five_have_the_same_test_and_validation_images():
    labels = labels_of([40, 40])
    one, five = (chosen(labels, own_test=False, shots=shots)[0] for shots in (1, 5))
    assert set(one["train"]) <= set(five["train"])
    for name in ("val", "test"):
        assert one[name].tolist() == five[name].tolist()
    none = chosen(labels, own_test=False)[0]
    assert none["test"].tolist() == five["test"].tolist()


def test_a_test_set_from_the_training_images_leaves_the_shots():
    labels = labels_of([5, 6, 20])
    sets, _, notes = chosen(labels, own_test=False, shots=5)
    assert count(labels, sets["test"], 3) == [0, 1, 4]
    assert [len(set(sets["train"][labels[sets["train"]] == label])) for label in range(3)] == [
        5
    ] * 3
    assert notes[0] == "1 of 3 classes have no test images: 'class 0'"


def test_cub_with_imbalance_factor_100():
    # The sizes of CUB-200-2011's training classes: 194 of 30 images and 6 of 29.
    labels = labels_of([30] * 194 + [29] * 6)
    sets, not_drawn, _ = chosen(labels, imbalance_factor=0.01)
    sizes = np.bincount(labels[sets["train"]])
    assert (sizes.max(), sizes.sum()) == (29, 1242)
    groups = [(sizes > 20).sum(), ((sizes >= 5) & (sizes <= 20)).sum(), (sizes < 5).sum()]
    assert groups == [16, 61, 123]
    assert count(labels, sets["val"], 200) == [
        min(3, whole - size) for whole, size in zip([30] * 194 + [29] * 6, sizes, strict=True)
    ]
    assert len(not_drawn) == 5994 - 1242 - len(sets["val"])


def test_nothing_is_held_out_where_no_share_is_asked_for():
    sets, not_drawn, notes = chosen(labels_of([8, 8]), shots=5, val_fraction=0.0)
    assert "val" not in sets
    assert (len(not_drawn), notes) == (6, [])


def test_version_0_1_held_validation_images_out_first():
    labels = labels_of([10, 10])
    config = DataConfig(shots=3, val_fraction=0.2)
    found = choose(config, {"train": labels, "test": labels}, ["a", "b"], held_out_first=True)
    kept, held = stratified(labels, 0.2, 0)
    assert found.chosen["val"][1].tolist() == held.tolist()
    assert found.chosen["train"][1].tolist() == kept[few_shot(labels[kept], 3, 0)].tolist()
