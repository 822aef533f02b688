"""`python -m tests.yardstick`: every method on every case; `cases DIR` writes the cases for others; `page` the page.

Each library runs in a process of its own, so that what it leaves behind, or breaks, is its own.
"""

import argparse
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.yardstick import cases, page
from tests.yardstick.measure import Row, measure
from tests.yardstick.methods import LIBRARIES, METHODS

README = """# Cases with known truth

Each `.npz` is a case: `image` (2, I, J, K), `lesion`, `other` and `looks` (I, J, K), and `truth: NAME` for each kind of
map. `cases.py` has the networks and says what the truths are; `score.py` has the rules. They need numpy, scipy and
torch. To run a method of your own:

    import cases, score, torch
    from pathlib import Path

    case = cases.read(Path("two_lesions.npz"))
    network = case.network                       # (B, 2, I, J, K) -> logits (B, 2, I, J, K), class 1 the lesion
    image = torch.from_numpy(case.image)[None]
    saliency = my_method(network, image, case.lesion)          # (2, I, J, K), or (1, I, J, K) of both modalities
    print(score.score(saliency, [case.truth("gradient")], case.looks, case.looks_for_others))

A number of 1 is right; `score.PASS` says what is enough. For maps made of blocks, and for Grad-CAMs, compare with the
truth of that name, as `measure.judge` of the project does.
"""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.yardstick", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("cases", help="write the cases, networks and rules").add_argument("folder", type=Path)
    one = commands.add_parser("one", help="measure one library, in this process")
    one.add_argument("library", choices=LIBRARIES)
    one.add_argument("out", type=Path)
    commands.add_parser("page", help="write the page again, from results.csv")
    given = parser.parse_args()
    if given.command == "cases":
        export(given.folder)
    elif given.command == "one":
        torch.set_num_threads(1)  # seconds are those of one
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "rows.pickle").write_bytes(pickle.dumps(list(measure(given.library, given.out))))
    else:
        table = page.load() if given.command == "page" else page.save(everything())
        page.PAGE.write_text(page.renew(page.PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
        print(page.markdown(table, default=False))


def export(folder: Path) -> None:
    """Files that need nothing else of this project."""
    paths = cases.write(folder)
    for module in ("cases.py", "score.py"):
        shutil.copy(Path(__file__).with_name(module), folder / module)
    (folder / "README.md").write_text(README, encoding="utf-8")
    print(f"{len(paths)} cases, README.md, cases.py and score.py in {folder}")


def everything() -> list[Row]:
    """Of all libraries; draws the figure."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as kept:
        for library in LIBRARIES:
            print(f"{library} ...", flush=True)
            rows += in_a_process(library, Path(kept) / library)
        maps = Path(kept) / "maps"
        maps.mkdir()
        for file in Path(kept).glob("*/*.npy"):
            file.rename(maps / file.name)
        page.draw(maps)
    return rows


def in_a_process(library: str, out: Path) -> list[Row]:
    """Rows of one library; where its process dies, each of its methods has a row that says so."""
    done = subprocess.run([sys.executable, "-m", "tests.yardstick", "one", library, out], check=False, cwd=page.ROOT)
    if done.returncode == 0:
        return pickle.loads((out / "rows.pickle").read_bytes())
    error = f"the process ended with exit code {done.returncode}"
    mine = [m for m in METHODS if m.library == library]
    return [Row(m.library, "", m.name, m.default, m.quantity, cases.linear().name, error=error) for m in mine]


if __name__ == "__main__":
    main()
