"""The table of perilesional curves on disk: grows lesion by lesion, nothing computed twice, nothing half-written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from ies_helpers.saliency.perilesional import Fill, perilesional_curve
from ies_helpers.segmentation.lesions import Lesion
from ies_helpers.segmentation.networks import Network
from ies_helpers.subjects.files import replacing
from ies_helpers.subjects.subject import Subject

COLUMNS = ["subject", "lesion", "group", "network", "fill", "distance_mm", "score", "seen", "volume_mm3", "full_score"]
"""Columns of the tidy table; behind them what tells whether a curve can be kept."""

SETTINGS = ["by", "threshold", "digest", "voxels"]


class ContextTable:
    """`perilesional.csv`: one row a lesion and distance.

    Attributes:
        curves: what it holds.
    """

    def __init__(self, path: Path) -> None:
        """Read the table, if there is one.

        Raises:
            ValueError: for a file of that name with other columns.
        """
        self.path = path
        self.curves: pd.DataFrame = pd.DataFrame(columns=[*COLUMNS, *SETTINGS])
        if path.is_file():
            self.curves = pd.read_csv(path, dtype={"subject": str, "digest": str})
            if list(self.curves.columns) != [*COLUMNS, *SETTINGS]:
                columns = ", ".join([*COLUMNS, *SETTINGS])
                raise ValueError(f"{path} must have the columns {columns}; move it away, or take another --out.")

    def add(
        self,
        subject: Subject,
        network: Network,
        lesions: Sequence[Lesion],
        *,
        fill: Fill,
        by: str,
        progress: bool = False,
    ) -> None:
        """Compute and write the curves that are not there yet, one lesion at a time.

        Raises:
            ValueError: where a curve of the same subject, lesion, network and fill was made with other settings.
        """
        asked = {"by": by, "threshold": network.threshold, "digest": network.digest()}
        for lesion in tqdm(lesions, desc=f"{subject.name}, perilesional", unit="lesion", disable=not progress):
            key = {"subject": subject.name, "lesion": lesion.number, "network": network.name, "fill": fill}
            if self._holds(key, asked | {"voxels": len(lesion)}):
                continue
            curve = perilesional_curve(network, subject.image, lesion, by=by, fill=fill, affine=subject.affine)  # pyright: ignore[reportArgumentType]
            told = key | {"group": lesion.group, "volume_mm3": lesion.volume_mm3} | asked | {"voxels": len(lesion)}
            rows = curve.assign(**told)[[*COLUMNS, *SETTINGS]]
            self.curves = pd.concat([self.curves, rows], ignore_index=True) if len(self.curves) else rows  # pyright: ignore[reportAttributeAccessIssue]
            with replacing(self.path) as part:
                self.curves.to_csv(part, index=False)

    def _holds(self, key: dict, settings: dict) -> bool:
        rows: Any = self.curves
        for column, value in key.items():
            rows = rows[rows[column] == value]
        if not len(rows):
            return False
        row = rows.iloc[0]
        other = {k: row[k] for k, v in settings.items() if str(row[k]) != str(v)}
        if other:
            told = ", ".join(f"{k} {v}" for k, v in other.items())
            name = f"lesion {key['lesion']} of {key['subject']}"
            raise ValueError(f"{self.path} holds {name} with {told}; take another --out to make it anew.")
        return True
