"""How long the index of a cohort takes: `python -m tests.bench.index` prints seconds."""

import json
import tempfile
import time
from pathlib import Path

from ies_helpers.subjects.folder import INDEX, map_path, read_index, sidecar, write_index

SUBJECTS, MAPS_EACH = 1000, 20


def write_sidecars(folder: Path, subject: str, maps: int = MAPS_EACH) -> None:
    """The small sidecars of one subject's maps, without their images."""
    for number in range(1, maps // 2 + 1):
        for channel in ("flair", "t1"):
            path = map_path(folder, subject, f"smoothgradmaxL{number:03d}", channel)
            path.parent.mkdir(parents=True, exist_ok=True)
            values = (subject, "unet", number, "TP", "smoothgrad", "max", 50, 0, channel, str(path.relative_to(folder)))
            part = path.with_suffix(".part")
            part.write_text(json.dumps(dict(zip(INDEX, values, strict=True))))
            part.replace(sidecar(path))


def measure(subjects: int = SUBJECTS, maps: int = MAPS_EACH) -> dict[str, float]:
    """Seconds to index a cohort as it grows, subject by subject, and once from nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder, growing = Path(name), 0.0
        for number in range(subjects):
            write_sidecars(folder, f"{number:04d}", maps)
            begun = time.perf_counter()
            write_index(folder)
            growing += time.perf_counter() - begun
        begun = time.perf_counter()
        write_index(folder, anew=True)
        whole = time.perf_counter() - begun
        table = read_index(folder)
    assert len(table) == subjects * maps
    return {"subject by subject": growing, "whole": whole}


if __name__ == "__main__":
    for how, seconds in measure().items():
        print(f"{SUBJECTS} subjects x {MAPS_EACH} maps, {how}: {seconds:.1f} s")
