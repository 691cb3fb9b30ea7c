import pyarrow as pa
import pytest

from diffmix.classifier.oracle import oracle_share
from diffmix.errors import UserError
from diffmix.nano import data


def table(examples: list[data.Example], labels: list[int]) -> pa.Table:
    return pa.table({"image": [example.image for example in examples], "target_label": labels})


def test_the_share_of_mixes_that_show_their_target():
    examples = [example for example, _ in zip(data.examples("train"), range(40), strict=False)]
    names = data.CLASS_NAMES[::-1]
    labels = [names.index(str(example.label)) for example in examples]
    wrong = [(label + 1) % 10 for label in labels[20:]]
    tables = [table(examples[:20], labels[:20]), table([], []), table(examples[20:], wrong)]
    assert oracle_share("nano", tables, names) == pytest.approx(0.5, abs=0.03)
    assert oracle_share("nano", [], names) == 0


def test_a_class_that_the_oracle_does_not_know():
    with pytest.raises(UserError, match=r"does not know the class lynx; .*--run\.oracle"):
        oracle_share("nano", [], ["0", "lynx"])
