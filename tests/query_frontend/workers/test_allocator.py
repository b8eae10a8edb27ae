"""Memory that a worker has freed is used again for the next large bodies."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from query_frontend.workers import allocator

if "keep" in sys.argv:
    allocator.keep_freed_memory()

def use():
    parts = [bytes([number]) * 256_000 for number in range(40)]
    return b"".join(parts)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have another allocator")
def test_memory_of_a_large_body_is_not_taken_from_the_kernel_again() -> None:
    assert faults("keep") < 100 < faults("give back")


def faults(how: str) -> int:
    """Return the number of pages that were taken from the kernel for five bodies after the first."""
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True).stdout)
