"""The cached memory of large results on the CPU (csrc/common/memory.h)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch import Tensor

from mfvis_ext import box_projection_loss

HAS_FROM_BLOB = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
"""True if torch accepts external memory for a tensor."""


def gradient(seed: int, instances: int = 4) -> Tensor:
    """`instances` MB."""
    logits = torch.randn(instances, 1, 512, 512, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    boxes = torch.tensor([20.0, 10, 400, 300]).expand(instances, 1, 4)
    return torch.autograd.grad(box_projection_loss(logits, boxes), [logits])[0]


@pytest.mark.skipif(not HAS_FROM_BLOB, reason="torch 2.10 only uses memory of its own")
def test_memory_is_reused_once_its_tensors_are_gone():
    first, second = gradient(0), gradient(1)
    address, copy = first.data_ptr(), first.clone()
    assert second.data_ptr() != address and first.untyped_storage().nbytes() == 4 << 20
    part = first[2]
    del first
    third = gradient(2)
    assert third.data_ptr() != address, "a view is still there"
    assert part.equal(copy[2])
    del part, third
    assert address in [again.data_ptr() for again in (gradient(0), gradient(0), gradient(0))]


def test_threads_do_not_get_the_same_memory():
    expected = [gradient(seed).clone() for seed in range(4)]
    wrong = []

    def repeat(seed: int) -> None:
        kept = None
        for _ in range(25):
            result = gradient(seed)
            if not result.equal(expected[seed]) or not (kept is None or kept.equal(expected[seed])):
                wrong.append(seed)
            kept = result

    threads = [threading.Thread(target=repeat, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


RESIDENT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_memory import gradient

def resident():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) >> 10

for megabytes in {before}:
    gradient(0, megabytes)
result = gradient(0, {megabytes})
before = resident()
del result
print(before - resident())
"""
needs_from_blob = pytest.mark.skipif(not HAS_FROM_BLOB, reason="torch 2.10 only uses memory of its own")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("before", "megabytes", "wish", "returned"),
    [
        pytest.param([1], 40, "1", False, marks=needs_from_blob, id="kept"),
        pytest.param([3, 5, 9, 17], 20, "1", False, marks=needs_from_blob, id="kept instead of another size"),
        pytest.param([1], 40, "0", True, id="switched off"),
        pytest.param([1], 80, "1", True, id="too large"),
    ],
)
def test_what_is_kept_is_bounded_and_can_be_switched_off(before, megabytes, wish, returned):
    """The C library returns freed memory to the system at once."""
    script = RESIDENT.format(folder=os.path.dirname(__file__), before=before, megabytes=megabytes)
    c_library = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = os.environ | c_library | {"MFVIS_KEEP_MEMORY": wish}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > megabytes // 2) is returned, done.stdout
