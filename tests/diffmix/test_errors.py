import pyarrow as pa
import pytest

from diffmix.errors import reason


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such thing.\nmore"), "no such thing"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
        (pa.ArrowInvalid("Failed. Detail: [errno 28] No space left"), "No space left"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_reason_is_one_line_without_a_full_stop(error, text):
    assert reason(error) == text
