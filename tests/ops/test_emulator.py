"""Tests of the emulator (csrc/emulator): it finds the faults in emulator_faults.cpp and accepts their correct twins."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (ROOT / "csrc" / "emulator" / "flags.txt").read_text().split()
if platform.machine() not in ("x86_64", "AMD64"):
    FLAGS = [flag for flag in FLAGS if not flag.startswith("-m")]


def compiled(folder: Path, flags: list[str], all_flags: list[str]) -> Path:
    """The executable: `flags` for the kernels only, as in CMakeLists.txt, `all_flags` also for the emulator."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        assert "MFVIS_FAIL_WITHOUT_EMULATOR" not in os.environ, f"no C++ compiler: {compiler}"
        pytest.skip(f"no C++ compiler: {compiler}")
    sources = [(Path(__file__).with_name("emulator_faults.cpp"), flags)]
    sources += [(source, ["-O1"]) for source in sorted((ROOT / "csrc" / "emulator").glob("*.cpp"))]
    common = [compiler, "-std=gnu++17", "-DMFVIS_EMULATED", f"-I{ROOT / 'csrc'}", *all_flags]
    objects = [str(folder / f"{source.stem}.o") for source, _ in sources]
    running = [
        subprocess.Popen([*common, *flags_of_source, "-c", str(source), "-o", target])
        for (source, flags_of_source), target in zip(sources, objects, strict=True)
    ]
    assert not any(process.wait() for process in running)
    program = folder / "emulator_faults"
    subprocess.run([compiler, *all_flags, *objects, "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("emulator"), FLAGS, [])


@pytest.fixture(scope="module")
def with_address_sanitizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = [flag for flag in FLAGS if not flag.startswith("-fsanitize")]
    return compiled(tmp_path_factory.mktemp("sanitized"), flags, ["-fsanitize=address"])


def run(program: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, name], capture_output=True, text=True)


RACE = "use the same {} memory, one of them writes it, and nothing orders them: {} is missing"
FAULTS = {
    "no_barrier": RACE.format("shared", "a barrier"),
    "no_barrier_in_global": RACE.format("global", "a barrier"),
    "barrier_of_some": "the threads of a block wait for each other forever",
    "behind_shared_memory": "a write behind the end of the shared memory",
    "unaligned": "an address that its type's alignment forbids",
    "two_shuffles": "the lanes of a warp meet in different collectives",
    "sums_at_two_places": "the lanes of a warp meet in different collectives",
    "mask_without_own_lane": "a lane's own bit is not in the mask of its collective",
    "masks_that_differ": "the lanes of a warp have different masks in a collective",
    "read_of_the_block_before": RACE.format("global", "a fence and an atomic operation"),
    "writes_to_one_place": RACE.format("global", "a fence and an atomic operation"),
    "write_next_to_atomics": RACE.format("global", "a fence and an atomic operation"),
    "last_block_without_release": RACE.format("global", "a fence and an atomic operation"),
    "last_block_without_acquire": RACE.format("global", "a fence and an atomic operation"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(program, name):
    done = run(program, name)
    assert done.returncode == 1 and FAULTS[name] in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("barrier", 4 * sum(range(64))),
        ("barrier_in_global", 4 * (sum(range(64)) + 63)),
        ("shared_memory", 256),
        ("aligned", 0),
        ("one_shuffle", 4 * 2 * sum(range(32))),
        ("half_a_warp", 4 * 2 * 16 * 0xAAAA),
        ("atomics", 256),
        ("last_block", 4 + 2 * (1 + 2 + 3 + 4)),
        ("within_bounds", 1),
    ],
)
def test_the_correct_twin_is_accepted(program, name, result):
    done = run(program, name)
    assert done.returncode == 0 and int(done.stdout) == result, done.stderr


def test_products_are_contracted_as_on_a_gpu(program):
    """Code that relies on a rounded product is wrong on a GPU, so it has to be wrong here."""
    assert int(run(program, "contracted").stdout) > 0


def test_an_off_by_one_read_of_global_memory_is_found(with_address_sanitizer):
    done = run(with_address_sanitizer, "off_by_one")
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr, done.stderr
    done = run(with_address_sanitizer, "within_bounds")
    assert done.returncode == 0 and done.stdout == "1\n", done.stderr
