import pytest
import torch

from diffmix.config import MixConfig
from diffmix.errors import UserError
from diffmix.generator.device.batch_size import saturating_batch, smallest_saturating


def launch_bound(batch: int) -> float:
    """A device that needs 80 ms for up to 8 mixes and 10 ms for each mix beyond: 8 saturate it."""
    return max(0.08, 0.01 * batch)


def test_the_smallest_batch_at_the_best_rate():
    assert smallest_saturating(launch_bound, 256) == 8
    assert smallest_saturating(launch_bound, 4) == 4
    # 50 ms to start, 1 ms for each: 256 run at 0.84 of what an endless batch would, 128 at 0.72 and
    # too slow by 1.16.
    assert smallest_saturating(lambda batch: 0.05 + 0.001 * batch, 256) == 256


def test_memory_ends_the_search():
    tried = []

    def seconds(batch: int) -> float:
        tried.append(batch)
        if batch > 4:
            raise torch.OutOfMemoryError("that is all")
        return 1.0

    assert smallest_saturating(seconds, 256) == 4
    assert tried == [1, 2, 4, 8]
    assert smallest_saturating(lambda batch: 1.0, 256, memory_is_short=lambda: True) == 1
    with pytest.raises(UserError, match=r"One mix does not fit in memory \(that is all\); use"):
        smallest_saturating(lambda batch: seconds(8), 256)


def test_on_a_real_model(tiny_model, caplog):
    caplog.set_level("INFO")
    chosen = saturating_batch(tiny_model, MixConfig(num_inference_steps=4, batch="auto"), most=4)
    assert chosen in (1, 2, 4)
    assert "batch 2:" in caplog.text
