"""The lesion table of a subject, with what its maps say as further columns."""

import warnings
from pathlib import Path

import pandas as pd

from ies_helpers.measures.maps import measure_map
from ies_helpers.subjects.reading import read_maps
from ies_helpers.subjects.saving import write_table

KEPT = ("_max", "_min", "_share", "energy", "balance_inside")
"""Names of the measures that the table holds end in these; `ies evaluate` has them all."""


def add_measures(folder: Path, subject: str) -> pd.DataFrame:
    """Write `sub-<subject>/lesions.tsv` anew, with columns for every finished map of the subject's lesions.

    A column is called by the map and the measure, `smoothgradmax_flair_max`: the largest value in FLAIR, in the map's
    unit. A lesion that was not explained by a method has no value there; nor has a measure that does not exist.

    Args:
        folder: that `ies explain` wrote.
        subject: whose table.

    Returns:
        The table.

    Raises:
        ValueError: for a damaged file.
    """
    path = Path(folder) / f"sub-{subject}" / "lesions.tsv"
    table = pd.read_csv(path, sep="\t").set_index("lesion", drop=False)
    for saved in read_maps(folder):
        if saved.record["subject"] != subject:
            continue
        saliency, lesion, affine = saved.load()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the empty cell says it
            values = measure_map(saliency, lesion, affine, saved.modalities)
        for name, value in values.items():
            if name.endswith(KEPT):
                table.loc[saved.record["lesion"], f"{_method(saved.stem)}_{name}"] = value
    table = table.reset_index(drop=True)
    write_table(path, table)
    return table


def _method(stem: str) -> str:
    """`sub-demo_desc-smoothgradmaxL003` -> `smoothgradmax`."""
    return stem.rpartition("_desc-")[2].rpartition("L")[0]
