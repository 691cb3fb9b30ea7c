import numpy as np
import pytest

from diffmix import chunks
from diffmix.chunks import cut


def by_hand(steps: list[int], batch: int) -> list[list[int]]:
    """A chunk is a run of `batch` mixes of equal steps; chunks are ordered by their first mix."""
    found = []
    for count in set(steps):
        same = [i for i, step in enumerate(steps) if step == count]
        found += [same[i : i + batch] for i in range(0, len(same), batch)]
    return sorted(found)


def listed(cuts) -> list[list[int]]:
    return [cuts[i].tolist() for i in range(len(cuts))]


@pytest.mark.parametrize("planned", [1, 7, 16, 100])
def test_as_by_hand(planned, monkeypatch):
    monkeypatch.setattr(chunks, "BLOCK", 13)
    steps = np.random.default_rng(0).integers(12, 16, planned)
    assert listed(cut(planned, 4, lambda ids: steps[ids])) == by_hand(steps.tolist(), 4)
    assert listed(cut(planned, 4, None)) == by_hand([1] * planned, 4)


@pytest.mark.parametrize("equal", [True, False])
def test_an_extended_plan_begins_with_the_chunks_that_it_had(equal):
    steps = np.random.default_rng(1).integers(3, 6, 90)
    steps_of = None if equal else lambda ids: steps[ids]
    once = listed(cut(31, 4, steps_of))
    twice = listed(cut(60, 4, steps_of, sizes=(31,)))
    thrice = listed(cut(90, 4, steps_of, sizes=(31, 60)))
    assert twice[: len(once)] == once
    assert thrice[: len(twice)] == twice
    assert sorted(mix for chunk in thrice for mix in chunk) == list(range(90))
    for chunk in thrice:
        assert len(chunk) <= 4
        assert equal or len(set(steps[chunk])) == 1


def test_lengths():
    steps = np.array([1, 2, 1, 1, 2, 1, 1])
    cuts = cut(7, 2, lambda ids: steps[ids])
    assert cuts.lengths.tolist() == [len(cuts[i]) for i in range(len(cuts))]


def test_no_mixes():
    assert len(cut(0, 4, None)) == 0
    assert len(cut(0, 4, lambda ids: ids)) == 0


def test_ten_million_mixes_take_few_bytes():
    assert cut(10_000_000, 16, None).nbytes == 2 * 8 * 625_000
    with_steps = cut(10_000_000, 16, lambda ids: ids % 2)
    assert with_steps.nbytes == 2 * 8 * 625_000 + 4 * 10_000_000
