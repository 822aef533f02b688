"""Where a long run stands: the running sums of each lesion, on disk, so that a killed run goes on."""

import contextlib
import hashlib
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ies_helpers.subjects.files import replacing
from ies_helpers.types import Voxels


class RunState:
    """Sums over noise draws, one small file a lesion, written beside and renamed.

    A file is found again only by a run of the same `key` (network, image, settings) and the same voxels, so
    a run with other settings starts anew. What cannot be read counts as not there.
    """

    def __init__(self, folder: Path, key: str, every: float = 30.0) -> None:
        """Keep the state in `folder`, saving at most once in `every` seconds."""
        self.folder, self.key, self.every = Path(folder), key, every
        self._saved = time.monotonic()

    def load(self, voxels: Voxels, total: torch.Tensor, most: int) -> int:
        """Copy the saved sum of a lesion into `total`; the draws in it, 0 if there is none of at most `most`."""
        try:
            with np.load(self._path(voxels)) as saved:
                values, draws = saved["total"], int(saved["draws"])
                if draws > most or values.shape != tuple(total.shape) or not np.isfinite(values).all():
                    return 0
                total.copy_(torch.from_numpy(values))
                return draws
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
            return 0

    def save(self, lesions: Sequence[Voxels], totals: Sequence[torch.Tensor], draws: Sequence[int]) -> None:
        """Write all sums, if the last time was long enough ago."""
        if time.monotonic() - self._saved < self.every:
            return
        for voxels, total, count in zip(lesions, totals, draws, strict=True):
            with replacing(self._path(voxels)) as part:
                np.savez(part, total=total.cpu().numpy(), draws=count)
        self._saved = time.monotonic()

    def clear(self) -> None:
        """Remove the files of this key, every map of it is finished, and the folder if that leaves it empty."""
        for path in self.folder.glob(f"{_digest(self.key.encode())}-*.npz"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _path(self, voxels: Voxels) -> Path:
        lesion = _digest(np.ascontiguousarray(voxels, dtype=np.int64).tobytes())
        return self.folder / f"{_digest(self.key.encode())}-{lesion}.npz"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]
