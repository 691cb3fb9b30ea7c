"""How people spell splits."""

import pytest
from datasets.data_files import SPLIT_KEYWORDS

from diffmix.datasets.forms.split_names import SPLITS, parse, split_of


def test_all_words_of_datasets_are_known():
    theirs = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
    ours = {"train": "train", "val": "validation", "test": "test"}
    assert {word: ours[SPLITS[word]] for word in theirs} == theirs


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (
            "train Train TRAIN training Training trainval train_set TrainingSet train-images",
            "train",
        ),
        ("val Val VALID valid validation Validation dev val2017 valset valid_data", "val"),
        ("test Test TESTING testing eval Evaluation test1 seg_test test_set TestImages", "test"),
    ],
)
def test_spellings(names, split):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_what_is_none():
    names = ["trains", "contest", "Testarossa", "devil", "validator", "latest", "0", "翠鸟", ""]
    names += ["test_tube", "my_train", "train_test"]
    assert [name for name in names if split_of(name)] == []


def test_other_words_are_kept_apart():
    assert parse("cars_train-00001-of-00002") == ("train", "train", ("cars", "of"))
    assert parse("validation-0")[:2] == ("val", "validation")
    assert parse("train_and_test") is None
