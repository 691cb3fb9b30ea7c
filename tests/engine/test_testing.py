"""The stand-ins that need no cluster; the others are used in tests/engine/mixing and benchmarks."""

import os
import subprocess
import sys

import pytest

from diffmix import images
from engine.mixing.store import SCHEMA
from engine.testing import EncodedImage, gather, mix_table


def test_an_encoded_image_is_the_file_that_it_was_given():
    assert images.encode(EncodedImage(b"any bytes"), "jpeg", 95) == b"any bytes"


def test_gathering_waits_for_other_processes(tmp_path):
    code = f"from engine.testing import gather; gather({str(tmp_path)!r}, 2)"
    other = subprocess.Popen([sys.executable, "-c", code])
    gather(str(tmp_path), 2)
    gather(str(tmp_path), 2)  # the same process does not count twice
    assert other.wait(60) == 0
    assert {file.name for file in tmp_path.iterdir()} == {str(os.getpid()), str(other.pid)}
    with pytest.raises(TimeoutError, match="2 of 3 processes came"):
        gather(str(tmp_path), 3, seconds=0.2)


def test_mixes_have_the_columns_of_the_store():
    table = mix_table(2, 5, accepted=False, strength=[0.5, 1.0])
    assert table.schema == SCHEMA
    assert table["mix_id"].to_pylist() == [5, 6]
    assert table["accepted"].to_pylist() == [False, False]
    assert table["strength"].to_pylist() == [0.5, 1.0]
    assert table["score"].null_count == 2
