"""How freed memory is kept for the next batch."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt(3): the sizes from which it maps a block by itself, and gives the
# end of its heap back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Have blocks of up to a gigabyte kept by this process when they are freed.

    Training frees and allocates the same large tensors in every step. By default glibc returns
    those of more than 32 MB to the kernel, and each of their pages faults in anew: a third of the
    time of the whole two-view policy on a CPU at 224 pixels and a batch of 64. Does nothing where
    there is no glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
