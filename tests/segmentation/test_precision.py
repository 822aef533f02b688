"""Float32 is float32 inside, whichever way the caller allowed less, and what was allowed comes back."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from ies_helpers.segmentation.network import as_network, at_rest, true_float32
from ies_helpers.teaching import Linear

PRODUCTS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # pyright: ignore[reportAttributeAccessIssue]
NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = [p.fp32_precision for p in PRODUCTS] if NEWER else []
    yield
    torch.set_float32_matmul_precision("highest")
    for products, precision in zip(PRODUCTS, before, strict=False):
        products.fp32_precision = precision  # pyright: ignore


@pytest.mark.parametrize("asked", ["highest", "high", "medium"])
def test_matrix_products_are_exact_inside_and_as_they_were_afterwards(asked: str) -> None:
    torch.set_float32_matmul_precision(asked)
    seen = [p.fp32_precision for p in PRODUCTS] if NEWER else []
    with warnings.catch_warnings(action="error"), at_rest(as_network(Linear())):
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == asked
    assert torch.backends.cuda.matmul.allow_tf32 == (asked != "highest")
    assert seen == ([p.fp32_precision for p in PRODUCTS] if NEWER else [])


def test_the_older_flag_comes_back_also_after_an_error() -> None:
    def fail() -> None:
        with true_float32():
            assert not torch.backends.cuda.matmul.allow_tf32
            raise RuntimeError("inside")

    torch.backends.cuda.matmul.allow_tf32 = True
    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(not NEWER, reason="torch before 2.9 has the older names alone")
@pytest.mark.parametrize("which", [0, 1], ids=["cuda", "cpu"])
def test_what_was_set_by_the_newer_names_is_kept_by_them(which: int) -> None:
    """Torch then refuses to read the older ones."""
    products = PRODUCTS[which]
    products.fp32_precision = "tf32"  # pyright: ignore
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    with warnings.catch_warnings(action="error"), true_float32():
        assert products.fp32_precision == "ieee"
    assert products.fp32_precision == "tf32"
