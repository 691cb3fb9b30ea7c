import pytest

from diffmix.files.read_ahead import read_ahead


def test_parts_are_read_ahead_in_order_and_not_all_at_once():
    """A slow consumer holds a few parts in memory, however many there are."""
    begun = []

    def read(chunk: int) -> int:
        begun.append(chunk)
        return chunk

    parts = read_ahead(read, range(1000))
    assert [next(parts) for _ in range(3)] == [0, 1, 2]
    assert len(begun) <= 50
    assert list(parts) == list(range(3, 1000))
    broken = read_ahead(lambda chunk: 1 // chunk, [1, 0, 1])
    assert next(broken) == 1
    with pytest.raises(ZeroDivisionError):
        next(broken)
