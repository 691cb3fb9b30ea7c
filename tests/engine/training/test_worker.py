"""What a train worker imports before its stream starts.

Covers `engine/training/job.py` too. The worker itself runs in `tests/e2e`.
"""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["engine.training.worker", "engine.testing"])
def test_nothing_heavy_is_imported_before_the_stream_starts(module):
    code = (
        f"import sys, {module}; "
        "print(*{'torch', 'deepspeed', 'timm', 'diffusers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
