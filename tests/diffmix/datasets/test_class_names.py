import pytest

from diffmix.datasets.class_names import alike, labels_of, match, plain
from diffmix.errors import UserError


def test_what_does_not_count():
    for name in ("001.Black_footed_Albatross", "black footed  albatross", "Black_Footed Albatross"):
        assert plain(name) == "black footed albatross"
    assert len({plain(name) for name in ("F/A-18", "F_A-18", "F A-18", "F∕A-18", "f／a-18")}) == 1
    assert plain("Wu\u0308rger") == plain("Würger")  # as macOS spells it
    assert len({plain(name) for name in ("707-320", "707-200", "翠鸟", "红嘴蓝鹊", "C-130")}) == 5


def test_match_prefers_the_same_name():
    assert match(["a b", "A_B"], ["A_B", "a b", "c"], "here") == {"a b": 1, "A_B": 0}
    assert match(["F A-18"], ["707", "F/A-18"], "here") == {"F A-18": 1}


def test_names_that_fit_none_or_several():
    sentence = "here has mixes of the class 'lynx', which is not one of the 2 classes"
    with pytest.raises(UserError, match=sentence):
        match(["lynx"], ["fox", "wolf"], "here")
    with pytest.raises(UserError, match="could be 'a b' and 'A_B'"):
        match(["a_b"], ["a b", "A_B"], "here")


def test_labels_by_name_or_by_what_is_plain_of_it():
    names = ["001.Black_footed_Albatross", "A_b", "a b", "7", "Würger"]
    wanted = ["black footed albatross", "a b", "A B", "7", "07", "wu\u0308rger", "lynx"]
    assert labels_of(wanted, names) == [0, 2, None, 3, None, 4, None]


def test_names_that_differ_in_spelling_alone():
    assert alike(["cat", "Cat", "dog", "$", "$$"]) == [["cat", "Cat"]]
