from diffmix.storage import Folder
from engine.budget.cut import mark_cut, recipe_key


def test_a_cut_classifier_counts_until_there_are_more_mixes(tmp_path):
    """Keys are the identities themselves."""

    def best_of(key: str) -> Folder:
        return Folder(str(tmp_path / key)).create()

    def key(stored: int, more_come: bool) -> str:
        return recipe_key(
            best_of,
            lambda identity: "-".join(map(str, identity.values())),
            {"seed": 7},
            stored,
            more_come,
        )

    assert key(0, True) == "7"
    mark_cut(best_of("7"), 10)
    assert key(10, False) == "7", "the limit still holds"
    assert key(10, True) == "7-10", "a larger limit lets more be made"
    assert key(25, False) == "7-10", "more were made"
    mark_cut(best_of("7-10"), 25)
    assert key(25, False) == "7-10"
    assert key(30, False) == "7-25"
