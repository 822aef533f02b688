"""How a Swin UNETR halves its grid: eight neighbours side by side, in one of the three orders that MONAI has had.

The order is no part of a file of weights: the same tensors load into all three and give other logits, without an
error. So it is recorded with the weights, or asked for. Written out here, it does not depend on the MONAI installed.
"""

import torch
from torch import nn

MERGINGS = {
    "monai-0.9": "000 100 010 001 101 010 001 111",
    "monai-1.5": "000 100 010 001 110 101 011 111",
    "mergingv2": "000 001 010 011 100 101 110 111",
}
"""Offsets along (I, J, K) in the order of the weights.

`monai-0.9`: `merging` of MONAI 0.9.0 to 1.4, the paper's; (0,1,0) and (0,0,1) twice, (1,1,0) and (0,1,1) never.
`monai-1.5`: `merging` of MONAI from 1.5.0 on, under the same name. `mergingv2`: all eight in order, in any version.
"""


def merging_module(merging: str) -> type[nn.Module]:
    """The patch merging of one of `MERGINGS`, as `SwinUNETR(downsample=...)` takes it.

    Raises:
        ValueError: for any other name.
    """
    if merging not in MERGINGS:
        raise ValueError(f"merging must be one of {', '.join(MERGINGS)}, got {merging!r}.")
    offsets = [tuple(map(int, offset)) for offset in MERGINGS[merging].split()]

    class PatchMerging(nn.Module):
        """`(B, I, J, K, F)` -> `(B, I/2, J/2, K/2, 2 F)`; an odd side is filled up with zeros."""

        order = MERGINGS[merging]

        def __init__(self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3) -> None:
            super().__init__()
            assert spatial_dims == 3
            self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
            self.norm = norm_layer(8 * dim)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rim = [side for axis in (3, 2, 1) for side in (0, x.shape[axis] % 2)]
            x = nn.functional.pad(x, [0, 0, *rim])
            eighths = [x[:, i::2, j::2, k::2] for i, j, k in offsets]
            return self.reduction(self.norm(torch.cat(eighths, dim=-1)))

    return PatchMerging
