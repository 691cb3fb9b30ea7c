"""Options as the fields of `diffmix.config` declare them.

Covers `diffmix/options/markers.py` and `diffmix/options/phrases.py` too.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Interval, Len, MinLen

from diffmix.config import Config
from diffmix.errors import UserError
from diffmix.options import groups, options
from diffmix.options.markers import OneOf, Placeholder, Share, Unit, Usual, numbers
from diffmix.options.phrases import allowed, shown

REGISTRY = {"round": 1, "square": 2}


@dataclass
class Oven:
    """How it is baked."""

    degrees: Usual[Annotated[float, Interval(gt=0, le=300), Unit("degrees")]] = 180.0
    """Heat of the oven. Measured
    inside. [P] 200
    """
    form: Annotated[str, OneOf(lambda: REGISTRY), Placeholder("FORM", lambda: REGISTRY)] = "round"
    """The form."""
    maker: Annotated[str, OneOf(lambda: REGISTRY, own=True)] = "round"
    """Who makes it."""
    minutes: Annotated[int | None, Unit("batches")] = None


@dataclass
class Cake:
    name: str = ""
    oven: Oven = field(default_factory=Oven)


def test_a_field_says_all_of_its_option():
    found = options(Cake)
    assert list(found) == ["name", "oven.degrees", "oven.form", "oven.maker", "oven.minutes"]
    heat = found["oven.degrees"]
    assert (heat.group, heat.default, heat.unit, heat.usual) == ("oven", 180.0, "degrees", True)
    assert heat.text == "Heat of the oven. Measured inside."
    assert heat.summary == "Heat of the oven"
    assert heat.source == "[P] 200"
    assert heat.allowed == "a number above 0 and at most 300"
    assert heat.written(180.0) == "180.0 degrees"
    assert (found["name"].group, found["name"].usual, found["name"].text) == ("", False, "")
    assert groups(Cake) == {"oven": "How it is baked."}


@pytest.mark.parametrize(
    ("value", "words"), [(None, "None"), (1, "1 batch"), (3, "3 batches"), (0, "0 batches")]
)
def test_a_value_has_its_unit(value, words):
    assert options(Cake)["oven.minutes"].written(value) == words


def test_a_registry_is_where_choices_stand(monkeypatch):
    form = options(Cake)["oven.form"]
    assert form.allowed == "round or square"
    assert form.text == "The form. FORM is round or square."
    with pytest.raises(UserError, match=r"did you mean square\?"):
        form.fit("sqare")
    monkeypatch.setitem(REGISTRY, "star", 3)
    assert form.fit("star") == "star"
    assert form.text == "The form. FORM is round, square or star."


def test_an_entry_of_the_users_own_is_a_choice_where_it_may_be():
    maker = options(Cake)["oven.maker"]
    assert maker.allowed == "round, square or module:attribute"
    assert maker.fit("mine:MAKER") == "mine:MAKER"
    with pytest.raises(UserError, match="module:attribute"):
        maker.fit("mine")
    with pytest.raises(UserError):
        options(Cake)["oven.form"].fit("mine:FORM")


def test_values_are_fitted_or_refused_with_one_sentence():
    heat = options(Cake)["oven.degrees"]
    assert heat.fit("90") == 90.0
    sentence = (
        r"^--oven\.degrees in a\.yaml is 301, but it must be a number above 0 and at most 300\.$"
    )
    with pytest.raises(UserError, match=sentence):
        heat.fit(301, " in a.yaml")
    for value in ("nan", "inf", [], ["1", "2"], None, "hot"):
        with pytest.raises(UserError):
            heat.fit(value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (Annotated[int, Ge(1)], "a whole number of at least 1"),
        (Annotated[float, Interval(ge=0, lt=1)], "a number of at least 0 and below 1"),
        (Share | None, "a number from 0 to 1, or None"),
        (bool, "True or False"),
        (Literal["a", "b", "c"], "a, b or c"),
        (Annotated[int, Ge(1)] | Literal["auto"], "a whole number of at least 1, or auto"),
        (tuple[Share, Share], "two numbers from 0 to 1"),
        (tuple[str, ...], "a list of texts"),
        (Annotated[tuple[int, ...], MinLen(1)], "one or more whole numbers"),
        (Annotated[tuple[int, ...], Len(1, 2)], "one or two whole numbers"),
    ],
)
def test_types_in_words(kind, words):
    assert allowed(kind) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.7, "0.7"),
        (1.0, "1.0"),
        ("", "empty"),
        ((), "empty"),
        ((4, 16), "4 16"),
        (("a b", "c"), "'a b' c"),
        (None, "None"),
    ],
)
def test_values_in_words(value, words):
    assert shown(value) == words


def test_every_option_of_the_project_has_a_text_that_fits_its_default():
    for name, option in options(Config).items():
        assert option.text.endswith("."), name
        assert len(option.summary) <= (80 if option.usual else 100), name
        assert option.allowed, name
        assert option.fit(option.default) == option.default


def test_names_with_numbers_are_words_or_a_mapping():
    option = options(Config)["placement.cluster_max"]
    assert option.fit(["gen=8", "train=2"]) == ("gen=8", "train=2")
    assert option.fit({"gen": 8, "train": 2}) == ("gen=8", "train=2")
    assert numbers(option.fit({"gen": 8, "train": 0.5})) == {"gen": 8.0, "train": 0.5}
    for wrong in (["gen"], ["=8"], ["gen=many"], {"gen": -1}, ["gen=inf"], ["gen=nan"]):
        with pytest.raises(UserError, match=r"cluster_max is .* names with a number each, such as"):
            option.fit(wrong)
