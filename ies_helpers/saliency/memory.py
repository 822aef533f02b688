"""How much memory work may take, and running out of it: how that is recognised, and told in one sentence."""

import re

import torch

BUDGET = 2**30
"""Bytes of working memory, beside the network and the volume."""

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
