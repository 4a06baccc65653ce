import sys

import pytest
import torch

from hansa_client.training.memory import exhaustion_named, keep_freed_memory
from hansa_common.errors import TrainingOutOfMemory


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000000000 bytes."),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_each_way_of_running_out_of_memory_is_named(failure: Exception) -> None:
    with (
        pytest.raises(TrainingOutOfMemory, match="training with batches of 32") as caught,
        exhaustion_named("training with batches of 32", advice="Lower training.batch_size."),
    ):
        raise failure
    assert caught.value.advice == "Lower training.batch_size."
    assert caught.value.__cause__ is failure


def test_an_absurd_allocation_is_named() -> None:
    with pytest.raises(TrainingOutOfMemory), exhaustion_named("a petabyte", advice=""):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), exhaustion_named("training", advice=""):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is a matter of Linux")
def test_malloc_takes_the_settings() -> None:
    assert keep_freed_memory()
