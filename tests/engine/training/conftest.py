"""DeepSpeed in the tests' own process."""

import pytest
import torch.distributed as dist


@pytest.fixture(scope="module")
def process_group():
    """One rank. DeepSpeed destroys it: it keeps references to the group, which has to be gone when
    the next module starts its own.
    """
    from engine.training.deepspeed_config import prepare_environment

    prepare_environment()
    patch = pytest.MonkeyPatch()
    patch.setenv("LOCAL_RANK", "0")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    import deepspeed.comm

    owner = deepspeed.comm if deepspeed.comm.is_initialized() else dist
    owner.destroy_process_group()
    patch.undo()
