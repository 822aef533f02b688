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
from ies_helpers.subjects.records import fingerprint, pixels_of
from ies_helpers.subjects.subject import Subject

COLUMNS = ["subject", "lesion", "group", "network", "fill", "distance_mm", "score", "seen", "volume_mm3", "full_score"]
"""Columns of the tidy table; behind them what tells whether a curve can be kept."""

SETTINGS = ["by", "threshold", "digest", "voxels", "image"]
"""`image` is a hash of the image, its affine and where the lesion lies in it."""


TEXT = ["subject", "group", "network", "fill", "by", "digest", "image"]
"""Columns read as they stand: a network may be called 31, and a subject NA."""


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
            lost = {name: [""] for name in (*COLUMNS, *SETTINGS) if name not in TEXT}
            self.curves = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=lost)
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
            ValueError: where a curve of the same subject, lesion, network and fill was made of another image or lesion,
                or any of the same network and fill with other settings: they are averaged.
        """
        made = {"by": by, "threshold": network.threshold, "digest": network.digest()}
        self._holds({"network": network.name, "fill": fill}, made)
        pixels = pixels_of(subject.image) + subject.affine.tobytes().hex()
        for lesion in tqdm(lesions, desc=f"{subject.name}, perilesional", unit="lesion", disable=not progress):
            key = {"subject": subject.name, "lesion": lesion.number, "network": network.name, "fill": fill}
            of = {"group": lesion.group, "voxels": len(lesion), "image": fingerprint(pixels, lesion.voxels)}
            if self._holds(key, of):
                continue
            curve = perilesional_curve(network, subject.image, lesion, by=by, fill=fill, affine=subject.affine)  # pyright: ignore[reportArgumentType]
            rows = curve.assign(**key, **made, **of, volume_mm3=lesion.volume_mm3)[[*COLUMNS, *SETTINGS]]
            self.curves = pd.concat([self.curves, rows], ignore_index=True) if len(self.curves) else rows  # pyright: ignore[reportAttributeAccessIssue]
            with replacing(self.path) as part:
                self.curves.to_csv(part, index=False)

    def _holds(self, key: dict[str, Any], settings: dict[str, Any]) -> bool:
        """Whether there are rows of `key`; refused if one of them has other settings."""
        rows: Any = self.curves
        for column, value in key.items():
            rows = rows[rows[column] == value]
        for row in rows.drop_duplicates([*settings]).to_dict("records"):
            other = [name for name, value in settings.items() if str(row[name]) != str(value)]
            if other:
                told = ", ".join("another image, affine or place" if n == "image" else f"{n} {row[n]}" for n in other)
                name = f"lesion {row['lesion']} of {row['subject']}"
                raise ValueError(f"{self.path} holds {name} with {told}; take another --out to make it anew.")
        return len(rows) > 0
