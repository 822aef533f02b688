"""`python -m tests.bench.refine`: do features of maps take away false lesions, on phantoms and on open patients?

Three questions, each with its numbers of lesions and patients: phantoms judged in turn; phantoms of another scanner
(other contrast, thick slices, more noise) judged by a model of the first; open patients judged in turn. A subject's
lesions are kept in a file of the folder `--cache`, so that a run that was ended goes on. Weights that never saw a
patient are given by `--network patient07=FILE`, one a patient; without them the shipped network is taken, which saw 07
and 19.
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from ies_helpers import Network, Subject, find_lesions, load_network, load_subject, predict
from ies_helpers.arrays import Box
from ies_helpers.measures.evaluation import markdown
from ies_helpers.measures.features import measure_features
from ies_helpers.measures.refine import Refined, refine
from ies_helpers.measures.uncertainty import lesion_uncertainty, member_probabilities
from ies_helpers.saliency.smoothgrad import smoothgrad_each
from ies_helpers.subjects.subject import normalise

FIRST, SHIFTED = 100, 200  # seeds of phantoms from here on: none of the demo's or of the tests'
TRAINED_ON = ("patient07", "patient19")  # by the shipped network
PATIENTS = ("patient07", "patient19", "patient26")


def other_scanner(subject: Subject, seed: int) -> Subject:
    """The same phantom in slices of 3 mm, of steeper contrast (a power of 1.5), with noise of 10 %."""
    assert subject.raw is not None
    rng, raw = np.random.default_rng(seed), subject.raw.clone()
    for channel, white in zip(raw, (100.0, 300.0), strict=True):
        brain = channel != 0
        steeper = white * (channel.clamp(min=0) / white) ** 1.5
        thick = torch.from_numpy(ndimage.uniform_filter1d(steeper.numpy(), 3, axis=2))
        noise = torch.from_numpy(rng.standard_normal(channel.shape).astype(np.float32))
        channel[brain] = (thick + 0.1 * white * noise)[brain]
    return replace(subject, name=f"{subject.name}b", raw=raw, image=normalise(raw))


def head(subject: Subject) -> Subject:
    """What of a subject's image is not background, and 8 voxels around it: half of a phantom's volume."""
    box = Box.around((subject.image != 0).any(dim=0).numpy()).grow(8, subject.shape)
    affine = subject.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ box.start
    target = None if subject.target is None else subject.target[box].clone()
    return replace(subject, image=subject.image[:, *box].clone(), target=target, raw=None, affine=affine)


def measure(subject: Subject, network: Network, draws: int) -> pd.DataFrame:
    """A row a lesion, found or missed, as `read_lesions` gives it; found ones with features of their `mean` map."""
    subject = head(subject)
    probability = predict(network, subject.image)
    lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
    table = lesions.table().rename(columns={"mean_probability": "probability"}).assign(subject=subject.name)
    table = table.drop(columns=[c for c in table if str(c).startswith("centre")])
    found = [lesion for lesion in lesions if lesion.group != "FN"]
    unsure = uncertainty(network, subject, found)
    rows = dict[int, dict[str, float]]()
    for n, average in smoothgrad_each(network, subject.image, found, aggregate="mean", draws=draws):
        saliency = average.full(subject.shape)
        rows[found[n].number] = measure_features(saliency, found[n], subject.affine, subject.channels)[0]
    made = pd.DataFrame.from_dict(rows, orient="index")
    return table.set_index("lesion", drop=False).join(made).assign(uncertainty=unsure).reset_index(drop=True)


def uncertainty(network: Network, subject: Subject, found: list[Any]) -> pd.Series:
    """Structural uncertainty of found lesions over four draws of SmoothGrad's noise."""
    many = member_probabilities(network, subject.image, source="noise", draws=4)
    return lesion_uncertainty(many, found, threshold=network.threshold).set_index("lesion")["structural"]


def collected(names: list[str], networks: dict[str, Network], draws: int, cache: Path) -> pd.DataFrame:
    """Lesions of subjects, from the cache where they are there."""
    tables = []
    for name in names:
        path = cache / f"{name.replace(':', '-')}.tsv"
        if not path.is_file():
            word = name.removesuffix("b")
            subject = load_subject(word if ":" in word else f"openms:{word}")
            subject = other_scanner(subject, 0) if name.endswith("b") else subject
            table = measure(subject, networks.get(name, networks["shipped"]), draws)
            table.to_csv(path, sep="\t", index=False, float_format="%.5g")
            print(f"{name}: {table['group'].value_counts().to_dict()}", flush=True)
        tables.append(pd.read_csv(path, sep="\t"))
    return pd.concat(tables, ignore_index=True)


def in_print(refined: Refined) -> pd.DataFrame:
    """A row a judge, numbers with their intervals."""
    rows = []
    for row in refined.judges.to_dict("records"):
        cells = {"judge": row["judge"]}
        for name in ("auc", "within", "f1", "f1_gain", "ppv", "sensitivity"):
            low, high = row.get(f"{name}_low", np.nan), row.get(f"{name}_high", np.nan)
            told = "" if not np.isfinite(row[name]) else f"{row[name]:.2f}"
            cells[name] = told + (f" ({low:.2f} to {high:.2f})" if told and np.isfinite(low) else "")
        rows.append(cells | {"TP": row["tp"], "FP": row["fp"], "FN": row["fn"]})
    return pd.DataFrame(rows)


def show(title: str, table: pd.DataFrame, permutations: int, unseen: pd.DataFrame | None = None) -> None:
    """One question and its answer, or the sentence that refuses it."""
    print(f"\n## {title}\n")
    try:
        refined = refine(table, unseen=unseen, permutations=permutations)
    except ValueError as error:
        print(error)
        return
    print(markdown(in_print(refined)))
    print(refined)


def main() -> None:
    """Measure what is not in the cache, then print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phantoms", type=int, default=24)
    parser.add_argument("--shifted", type=int, default=8)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--network", action="append", default=[], metavar="PATIENT=FILE")
    parser.add_argument("--patients", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("refine-cache"))
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    files = dict(word.split("=", 1) for word in given.network)
    networks = {"shipped": load_network("unet")} | {name: load_network(path) for name, path in files.items()}
    names = [f"phantom:{FIRST + n}" for n in range(given.phantoms)]
    usual = collected(names, networks, given.draws, given.cache)
    show("Phantoms, judged in turn", usual, given.permutations)
    if given.shifted:
        others = [f"phantom:{SHIFTED + n}b" for n in range(given.shifted)]
        shifted = collected(others, networks, given.draws, given.cache)
        show("Phantoms of another scanner, judged by a model of the first", usual, given.permutations, shifted)
    if given.patients:
        if seen := [name for name in TRAINED_ON if name not in files]:
            warnings.warn(f"The shipped network was trained on {' and '.join(seen)}; give --network.", stacklevel=1)
        patients = collected(list(PATIENTS), networks, given.draws, given.cache)
        show("Open patients, judged in turn", patients, given.permutations)
        show("Open patients, judged by a model of the phantoms", usual, given.permutations, patients)


if __name__ == "__main__":
    main()
