"""Float32 that is float32: no TF32 or bfloat16 inside, whatever the caller allowed elsewhere."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def true_float32() -> Iterator[None]:
    """Convolutions and matrix products as precise as their type inside; the caller's settings afterwards.

    TF32, which cuDNN takes unless told otherwise, rounds to 10 bits, an error of about 1e-3.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), ExitStack() as afterwards:
        try:
            before = torch.get_float32_matmul_precision()
            if before != "highest":
                afterwards.callback(torch.set_float32_matmul_precision, before)
                torch.set_float32_matmul_precision("highest")
        except RuntimeError:  # set by torch's newer names, and then this older one must not be read
            for products in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):  # pyright: ignore
                afterwards.callback(setattr, products, "fp32_precision", products.fp32_precision)
                products.fp32_precision = "ieee"
        yield
