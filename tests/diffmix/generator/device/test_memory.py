"""Parts that are halved where memory runs out, with a stand-in that raises what torch raises."""

import pytest
import torch

from diffmix.errors import UserError
from diffmix.generator.device.memory import Parts, fitting, parts_of_decoder

GB = 2**30


def working(most: int, seen: list):
    """Work that fits `most` rows."""

    def work(rows: slice) -> list[int]:
        count = rows.stop - rows.start
        seen.append(count)
        if count > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return list(range(rows.start, rows.stop))

    return work


def test_a_part_that_does_not_fit_is_halved_and_it_is_remembered(caplog):
    parts, seen = Parts("One mix", "rent a larger GPU"), []
    made = [row for part in parts.of(10, working(3, seen)) for row in part]
    assert made == list(range(10))
    assert seen == [10, 5, 2, 2, 2, 2, 2]
    assert (parts.most, parts.halved) == (2, 2)
    assert "memory ran out at 10 rows at once (CUDA out of memory. Tried" in caplog.text
    seen.clear()
    list(parts.of(4, working(3, seen)))
    assert seen == [2, 2]
    assert parts.halved == 2


def test_what_fits_is_one_part():
    parts, seen = Parts("One mix", "rent a larger GPU"), []
    list(parts.of(10, working(10, seen)))
    assert (seen, parts.most, parts.halved) == ([10], None, 0)


def test_a_single_row_that_does_not_fit_is_one_sentence():
    says = r"^One mix does not fit in memory \(CUDA out of memory.*2 GiB\); rent a larger GPU\.$"
    with pytest.raises(UserError, match=says):
        list(Parts("One mix", "rent a larger GPU").of(4, working(0, [])))
    with (
        pytest.raises(UserError, match=r"^The base does not fit"),
        fitting("The base", "rent a larger GPU"),
    ):
        working(0, [])(slice(0, 1))


@pytest.mark.parametrize(
    ("side", "itemsize", "left", "expected"),
    [
        (512, 2, None, 8),  # as on a CPU
        (512, 2, 60 * GB, 8),  # more is of no use
        # 512 * 512 * 2000 * 2 bytes are 1.05e9 an image; half of 8.59e9 holds four of them.
        (512, 2, 8 * GB, 4),
        (512, 4, 8 * GB, 2),
        # SDXL's VAE in fp32 on a card of 16 GB: 8.4e9 for an image, and one is the least.
        (1024, 4, 9 * GB, 1),
        (1024, 2, 60 * GB, 2),
        (512, 2, -1.0, 1),
        (32, 4, None, 2048),
    ],
)
def test_the_decoders_parts_follow_dtype_and_memory(side, itemsize, left, expected):
    assert parts_of_decoder(side, itemsize, left) == expected
