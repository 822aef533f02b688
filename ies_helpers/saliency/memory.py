"""Out of memory, on a GPU or on the CPU: how it is recognised, and told in one sentence."""

import re

import torch

SIGNS = (
    "can't allocate memory",
    "not enough memory: you tried",  # torch on Windows
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch says where it raises a bare RuntimeError."""


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, a library below it, or Python ran out of memory."""
    bare = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    return bare or isinstance(error, MemoryError | torch.OutOfMemoryError)


def does_not_fit(what: str, remedy: str, error: BaseException) -> MemoryError:
    """The error to raise when no work is left to halve; `error` is the last that was met."""
    tried = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
    return MemoryError(f"{what} does not fit in memory ({tried[0].lower() if tried else 'none left'}): {remedy}.")
