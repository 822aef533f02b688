"""One page a patient, one section a lesion: where it lies, what the network's answer rests on, how firm it is.

Four parts: the facts of a lesion, measured; the sentences that rules make of them; the pictures; the page. The facts
are a dataclass, so that sentences and page can be read and tested without a network. The page is one file that loads
nothing and runs no script.
"""

import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib.resources import files
from io import BytesIO
from itertools import product
from math import isfinite, log, log2, nan
from pathlib import Path
from string import Template
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import nn
from tqdm.auto import tqdm

from ies_helpers.arrays import Saliency, door
from ies_helpers.figures.slices import (
    CLOSE_UP_MM,
    PLANES,
    SIGNED,
    Canonical,
    busiest,
    draw_slice,
    label_of,
    largest_shown,
    symmetric,
)
from ies_helpers.measures.context import ContextTable, summarise_curves
from ies_helpers.measures.features import map_features
from ies_helpers.measures.maps import channel_shares, peak, proportional_energy
from ies_helpers.measures.regions import OUT, LesionZones, Zone
from ies_helpers.measures.uncertainty import lesion_uncertainty, member_probabilities, members_of
from ies_helpers.saliency.context import MOST_DOSE, STEPS, Flip, dose_to_flip, scorer_of
from ies_helpers.saliency.estimate import estimate_scores, in_words
from ies_helpers.saliency.explain import make_maps, unfinished
from ies_helpers.saliency.methods import GRADIENT_UNIT, METHODS, Recipe
from ies_helpers.segmentation.lesions import Lesion, Lesions, segment_into_folder
from ies_helpers.segmentation.network import Network, prepare
from ies_helpers.subjects.editing import lesion_contrast
from ies_helpers.subjects.files import write_text
from ies_helpers.subjects.folder import ALL, read_maps, subject_folder
from ies_helpers.subjects.subject import Subject

# The facts of one lesion.


@dataclass(frozen=True)
class Alike:
    """The lesion of a group that is most like another one."""

    lesion: int
    apart: float  # root of the mean squared difference of standardised numbers: two lesions at random have about 1.4
    by: str  # which numbers


@dataclass(frozen=True)
class LesionFacts:
    """What is known of one lesion. What has no value is NaN, or absent, and `reasons` says why, by field."""

    subject: str
    lesion: int
    group: str
    voxels: int
    volume_mm3: float
    probability: float  # mean over its voxels
    highest: float
    threshold: float
    zone: Zone
    unit: str  # of the map
    shares: Mapping[str, float]  # of the map's absolute values, by channel
    peaks: Mapping[str, tuple[float, float]]  # smallest and largest value, by channel
    inside: float  # share of the map's absolute values that lies in the lesion
    contrast: float  # mean of FLAIR in it, less the median of the white matter around it, z-scored units
    needs_mm: float  # tissue around it with which its score is never below 95 % of the whole one
    found: bool  # by the network, as it is
    dose: float  # z-scored units of FLAIR that turn the answer; see `dose_to_flip`
    structural: float = nan  # 1 - mean over members of the best overlap; of lesions that were found
    entropy: float = nan  # of the members' mean probability, in bits, mean over its voxels
    members: str = ""  # what the network was compared with, as `5 networks`
    alike: Mapping[str, Alike] = field(default_factory=dict)  # by group, TP and FP
    reasons: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)  # of its map; see `map_features`

    @property
    def doubt(self) -> float:
        """How little the network holds to its answer, from 0 to 1.

        Of a lesion that it finds the structural uncertainty: how little its members draw the same. Of one that it
        misses, where there is nothing to draw, the entropy of their mean probability, in bits; without members that of
        the lesion's mean probability. See `lesion_uncertainty`.
        """
        for value in (self.structural, self.entropy):
            if isfinite(value):
                return value
        p = min(max(self.probability, 1e-9), 1 - 1e-9)
        return -p * log2(p) - (1 - p) * log2(1 - p) if isfinite(p) else nan

    @property
    def name(self) -> str:
        """Its anchor in the page."""
        return f"L{self.lesion:03d}"


@dataclass(frozen=True, eq=False)
class Run:
    """What the lesions of one page share: a subject, a network that `prepare` fitted to it, and what it said."""

    subject: Subject
    network: Network
    lesions: Lesions  # all that there are, shown or not
    unit: str  # of the maps
    zones: LesionZones | str  # or why there are none
    curves: pd.DataFrame  # of `summarise_curves`
    uncertainty: pd.DataFrame  # of `lesion_uncertainty`, a row a lesion
    members: str = ""


def lesion_facts(run: Run, lesion: Lesion, saliency: Saliency) -> LesionFacts:
    """Measure one lesion and its map `(C, I, J, K)`, or `(1, I, J, K)` for a map of all channels at once."""
    subject, reasons = run.subject, dict[str, str]()
    channels = subject.channels if len(saliency) == len(subject.channels) else (ALL,)

    def told(name: str, measure: Callable[[], Any]) -> Any:
        """What is measured; why it is NaN goes to `reasons`."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = measure()
        why = [str(w.message).partition("NaN: ")[2].rstrip(".") for w in caught if "NaN: " in str(w.message)]
        reasons.update({name: why[0]} if why else {})
        return value

    ends = peak(saliency, channels)
    shares = told("shares", lambda: channel_shares(saliency, channels))
    flip = told("dose", lambda: _flip(run, lesion, reasons))
    curve: Any = run.curves[run.curves["lesion"] == lesion.number]
    members: Any = run.uncertainty[run.uncertainty["lesion"] == lesion.number]
    needs = float(curve["keeps_mm"].iloc[0])
    if not isfinite(needs):
        reasons["needs_mm"] = f"no rim of up to {STEPS[-1]} mm keeps 95 % of the score"
    return LesionFacts(
        subject=subject.name,
        lesion=lesion.number,
        group=lesion.group,
        voxels=len(lesion),
        volume_mm3=lesion.volume_mm3,
        probability=lesion.mean_probability,
        highest=lesion.max_probability,
        threshold=run.network.threshold,
        zone=Zone("", nan, run.zones) if isinstance(run.zones, str) else run.zones(lesion),
        unit=run.unit,
        shares={name: shares[f"{name}_share"] for name in channels},
        peaks={name: (ends[f"{name}_min"], ends[f"{name}_max"]) for name in channels},
        inside=told("inside", lambda: proportional_energy(saliency, lesion)),
        contrast=_contrast(subject, lesion, reasons),
        needs_mm=needs,
        found=flip.found,
        dose=flip.dose,
        structural=float(members["structural"].iloc[0]) if len(members) else nan,
        entropy=float(members["entropy_of_mean"].iloc[0]) / log(2) if len(members) else nan,
        members=run.members,
        reasons=reasons,
        features=_features(saliency, lesion, subject, channels),
    )


def _flip(run: Run, lesion: Lesion, reasons: dict[str, str]) -> Flip:
    """Counted in FLAIR, and for a lesion in the brain."""
    try:
        flip = dose_to_flip(run.network, run.subject, lesion)
    except ValueError as error:
        reasons["dose"] = str(error).rstrip(".")
        return Flip(lesion.max_probability > run.network.threshold, nan)
    if "flair" in run.subject.channels:
        return flip
    reasons["dose"] = "it is counted in FLAIR, and there is none"
    return flip._replace(dose=nan)


def _contrast(subject: Subject, lesion: Lesion, reasons: dict[str, str]) -> float:
    """Of FLAIR, against the white matter around the lesion."""
    try:
        value = lesion_contrast(subject, lesion).get("flair", nan)
        why = "there is too little white matter around it"
    except ValueError as error:  # white matter is told by FLAIR and T1
        value, why = nan, str(error)
    reasons.update({} if isfinite(value) else {"contrast": why})
    return value


def _features(saliency: Saliency, lesion: Lesion, subject: Subject, channels: Sequence[str]) -> dict[str, float]:
    """Of the map; those without a value are NaN, and not compared."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*NaN")
        return map_features(saliency, lesion, subject.affine, channels)


# Which lesions of the run are most like it.

FEWEST_ALIKE = 8  # maps without which their texture is not compared
PLAIN = ("volume", "mean_probability", "max_probability")


def with_alike(facts: Sequence[LesionFacts], lesions: Lesions) -> list[LesionFacts]:
    """The same, each with the found lesions that are most like it: one that is true and one that is false.

    By the features of their maps, where at least 8 lesions have maps; else all of the run are compared by size
    (logarithm), mean and largest probability. Numbers are standardised over the lesions that are compared.
    """
    if len(facts) >= FEWEST_ALIKE and all(f.features for f in facts):
        table, by = pd.DataFrame([f.features for f in facts], index=[f.lesion for f in facts]), "their maps' texture"
    else:
        plain: Any = lesions.table().set_index("lesion").assign(volume=lambda t: np.log(t["voxels"]))
        table, by = plain[list(PLAIN)], "size and probability"
    groups = {lesion.number: lesion.group for lesion in lesions}
    return [replace(f, alike=most_alike(table, groups, f.lesion, by)) for f in facts]


def most_alike(table: pd.DataFrame, groups: Mapping[int, str], lesion: int, by: str) -> dict[str, Alike]:
    """Of each group, TP and FP, the lesion nearest to `lesion` in a table indexed by lesions, a column a number.

    Columns with a NaN, or the same value everywhere, are left out; a group without another lesion has none.
    """
    values: Any = table.dropna(axis=1)
    values = values.loc[:, values.std(ddof=0) > 1e-9 * values.abs().max()]
    if values.empty or not values.shape[1]:
        return {}
    standard = (values - values.mean()) / values.std(ddof=0)
    apart: Any = np.sqrt(np.square(standard - standard.loc[lesion]).mean(axis=1))
    found = {}
    for group in ("TP", "FP"):
        others = [n for n in table.index if groups[n] == group and n != lesion]
        if others:
            nearest = int(apart[others].idxmin())
            found[group] = Alike(nearest, float(apart[nearest]), by)
    return found


# Sentences. Each is one rule: what makes it unsure, and how it then reads; the page prints the rules too.

SURE_ZONE = 0.75  # of 27 placements of the template
MAIN_SHARE = 2 / 3  # of a map's strength that makes a channel the main one
FIRM_DOSE = 0.3  # z-scored units of FLAIR
FIRM_STRUCTURAL = 0.5

PLACES = {
    "infratentorial": "in brainstem or cerebellum (infratentorial)",
    "periventricular": "at the lateral ventricles (periventricular)",
    "juxtacortical": "at the cortex (juxtacortical)",
    "deep grey matter": "in deep grey matter",
    "deep white matter": "in deep white matter",
}


@dataclass(frozen=True)
class Sentence:
    """One sentence about a lesion: what it answers, by which rule, and both its forms."""

    question: str
    rule: str  # in words, for the page
    doubts: Callable[[LesionFacts], list[str]]  # why it cannot be said; empty where it can
    sure: Callable[[LesionFacts], str]
    unsure: str  # what is put before the doubts

    def __call__(self, facts: LesionFacts) -> str:
        """The sentence for one lesion."""
        doubts = self.doubts(facts)
        return f"{self.unsure}: {'; '.join(doubts)}." if doubts else self.sure(facts)


def percent(share: float) -> str:
    """`71 %`."""
    return f"{100 * share:.0f} %" if isfinite(share) else "unknown"


def _zone_doubts(f: LesionFacts) -> list[str]:
    if not f.zone.name:
        return [f.zone.why.rstrip(".")]
    if f.zone.name == OUT:
        return ["most of it lies outside the brain of the template"]
    if f.zone.sure >= SURE_ZONE:
        return []
    count = f"{f.zone.name} in {round(27 * f.zone.sure)} of 27"
    return [f"moved by 2 mm, a template brain says {', '.join(filter(None, (count, f.zone.why)))}"]


def _zone_sure(f: LesionFacts) -> str:
    agree = f"{round(27 * f.zone.sure)} of 27 placements of a template brain say so"
    return f"It seems to lie {PLACES[f.zone.name]}: {agree}."


def _rests_doubts(f: LesionFacts) -> list[str]:
    doubts, named = [], {name: share for name, share in f.shares.items() if isfinite(share)}
    if not named:
        doubts.append(f.reasons.get("shares", "its map has no values"))
    elif ALL in named:
        doubts.append("this kind of map does not tell channels apart")
    elif max(named.values()) < MAIN_SHARE:
        doubts.append(f"no channel stands out ({_shares(f)})")
    if not f.probability > f.threshold:
        doubts.append("its score is too low to tell how much tissue around it counts")
    elif not isfinite(f.needs_mm):
        doubts.append(f.reasons.get("needs_mm", "how much tissue around it counts was not measured"))
    return doubts


def _shares(f: LesionFacts) -> str:
    return ", ".join(f"{label_of(name)} {percent(share)}" for name, share in f.shares.items())


def _rests_sure(f: LesionFacts) -> str:
    main = max(f.shares, key=lambda name: f.shares[name])
    share = f"{label_of(main)} is its only channel" if len(f.shares) == 1 else f"{_shares(f)} of the map's strength"
    far = f"all that lies more than {f.needs_mm:g} mm from it" if f.needs_mm else "all but the lesion itself"
    kept = f"blurring {far} leaves the score above 95 % of its value"
    return f"The network's score for it reacts most to changes in {label_of(main)} ({share}); {kept}."


def _answer(f: LesionFacts) -> tuple[str, str]:
    """What would have to happen, and to what end."""
    return ("darker", "missed") if f.found else ("brighter", "found")


def _turns(f: LesionFacts, digits: int) -> str:
    """What turns the answer, in units of the image."""
    way, end = _answer(f)
    if not isfinite(f.dose):
        return f"even {MOST_DOSE:g} units {way} in FLAIR it would not be {end}"
    return f"it would be {end} if FLAIR were {abs(f.dose):.{digits}f} units {way} there"


def _firm_doubts(f: LesionFacts) -> list[str]:
    doubts = [_turns(f, 2)] if abs(f.dose) < FIRM_DOSE else []
    if not f.members:
        doubts.append("the network was compared with no other")
    elif f.doubt > FIRM_STRUCTURAL:
        doubts.append(f"{f.members} do not agree on it (doubt {f.doubt:.2f} of 1)")
    return doubts + ([f.reasons["dose"]] if "dose" in f.reasons else [])


def _firm_sure(f: LesionFacts) -> str:
    way = "brighter" if f.contrast >= 0 else "darker"
    now = f" (now it is {abs(f.contrast):.1f} {way} than the white matter around it)" if isfinite(f.contrast) else ""
    agree = f"{f.members} agree on it (doubt {f.doubt:.2f} of 1)"
    return f"Right or wrong, the network would not easily answer otherwise: {_turns(f, 1)}{now}, and {agree}."


SENTENCES = (
    Sentence(
        "Where does it lie?",
        f"Sure where at least {percent(SURE_ZONE)} of 27 placements of the MNI152 template, moved by 2 mm along each "
        "axis, give the same zone. Not sure otherwise, outside the template, and where the brain is not in MNI space. "
        "In six synthetic patients 91 % of the sure zones were right.",
        _zone_doubts,
        _zone_sure,
        "Where it lies is not sure",
    ),
    Sentence(
        "What does the network's answer rest on?",
        f"Sure where one channel has at least {percent(MAIN_SHARE)} of the map's absolute values, the mean probability "
        "is above the network's threshold, and a rim of tissue is known with which the score is never below 95 % of "
        "the whole one while all beyond it is blurred. Not sure otherwise.",
        _rests_doubts,
        _rests_sure,
        "What the answer rests on is not sure",
    ),
    Sentence(
        "How easily would the answer change?",
        f"Not easily where FLAIR must change by at least {FIRM_DOSE} z-scored units over the lesion (T1 by half that, "
        f"the other way) until the answer turns, and the doubt is at most {FIRM_STRUCTURAL}. Not sure otherwise. "
        "This says nothing about whether the answer is right.",
        _firm_doubts,
        _firm_sure,
        "Not sure that the network would stay with its answer",
    ),
)
"""The sentences of a section, in their order."""


# Measured: one run over a subject, nothing computed twice that its folder holds.

NOISY = 8  # copies of the scan that a network without members is shown


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """The page of a subject, and the facts that it was made of, by doubt, the largest first."""

    facts: tuple[LesionFacts, ...]
    html: str
    path: Path

    def table(self) -> pd.DataFrame:
        """A row a lesion: its facts, its doubt, and its three sentences."""
        return pd.DataFrame([_row(f) for f in self.facts])

    def __repr__(self) -> str:
        count = f"{len(self.facts)} lesions" if len(self.facts) != 1 else "1 lesion"
        return f"Report({self.facts[0].subject}, {count}, {self.path})"

    def _repr_html_(self) -> str:
        title = f"Lesions of {self.facts[0].subject}"
        return f'<iframe title="{escape(title)}" srcdoc="{escape(self.html)}" width="100%" height="700"></iframe>'


def _row(f: LesionFacts) -> dict[str, Any]:
    same = ("subject", "lesion", "group", "voxels", "volume_mm3", "probability", "highest", "threshold")
    row: dict[str, Any] = {name: getattr(f, name) for name in same}
    row |= {"zone": f.zone.name, "zone_sure": f.zone.sure}
    row |= {f"{name}_share": share for name, share in f.shares.items()}
    row |= {name: getattr(f, name) for name in ("inside", "contrast", "needs_mm", "found", "dose", "structural")}
    row |= {f"like_{group}": f.alike[group].lesion if group in f.alike else None for group in ("TP", "FP")}
    return row | {"doubt": f.doubt, "sentences": " ".join(sentence(f) for sentence in SENTENCES)}


Wanted = str | int | Lesion | Iterable[int | Lesion] | None


@door
def report(
    subject: Subject,
    network: Network | nn.Module,
    lesions: Wanted = None,
    out: Path | str = "ies-out",
    *,
    labels: Path | None = None,
    recipe: Recipe | None = None,
    tell: Callable[[str], None] | None = None,
    progress: bool = False,
    command: str = "",
) -> Report:
    """One page a patient, one section a lesion, as `out/figures/sub-<name>_report.html`.

    A page of some lesions ends in `_chosen_report.html`, so that it never replaces the page of all. Maps and
    perilesional curves that `out` holds are kept, see `explain`; what is made goes there too.

    Args:
        subject, network: are fitted to each other, see `prepare`.
        lesions: which of those that the network finds or misses get a section: numbers, lesions, or words as of
            `--lesions`; None: all.
        labels: a file of lesions that take the place of the network's, see `find_lesions`.
        recipe: how maps are made; None: SmoothGrad, the maximum of 50 draws.
        tell: is given a sentence of how long it will take, before it begins.
        command: the command line, for the sidecars.
    """
    recipe, out = recipe or Recipe(), Path(out)
    network, subject = prepare(network, subject)
    network = recipe.view_of(network, len(subject.channels))
    begun = perf_counter()
    found = segment_into_folder(subject, network, out, labels=labels, progress=progress)
    predicting = perf_counter() - begun
    chosen = _chosen(found, lesions)
    if tell:
        tell(plan(subject, network, chosen, out, recipe, predicting))
    make_maps(subject, network, chosen, out, recipe, progress=progress, command=command)
    run = _run(subject, network, found, chosen, out, recipe, progress)
    space, facts, pictures = Canonical(subject), list[LesionFacts](), dict[int, Pictures]()
    maps = _maps(out, subject, recipe)
    for lesion in tqdm(chosen, desc="Measuring", unit="lesion", disable=not progress):
        saliency, *_ = maps[lesion.number].load()
        facts.append(lesion_facts(run, lesion, saliency))
        pictures[lesion.number] = draw_lesion(space, lesion, saliency)
    known = {lesion.number: lesion for lesion in found}
    facts = sorted(with_alike(facts, found), key=lambda f: (-f.doubt if isfinite(f.doubt) else 0, f.lesion))
    for number in {alike.lesion for f in facts for alike in f.alike.values()} - set(pictures):
        pictures[number] = draw_lesion(space, known[number], None)
    some = "" if len(chosen) == len(found) else "_chosen"
    path = out / "figures" / f"sub-{subject.name}{some}_report.html"
    html = page(facts, pictures, about(run, maps[chosen[0].number].record, recipe))
    write_text(path, html)
    return Report(tuple(facts), html, path)


def _chosen(found: Lesions, wanted: Wanted) -> list[Lesion]:
    """The lesions that shall have a section; refused where there is none, or another one of that number."""
    if wanted is None or isinstance(wanted, str):
        return found.select(wanted or "all")
    given = [wanted] if isinstance(wanted, int | np.integer | Lesion) else list(wanted)
    chosen = [found[one.number if isinstance(one, Lesion) else int(one)] for one in given]
    for one, own in zip(given, chosen, strict=True):
        if isinstance(one, Lesion) and not np.array_equal(one.voxels, own.voxels):
            raise ValueError(f"A lesion must be one that this network finds or misses here, {one!r} is not: {own!r}.")
    if not chosen:
        raise ValueError("There must be a lesion to report on, got none; give None for all.")
    return list({lesion.number: lesion for lesion in chosen}.values())


def _maps(out: Path, subject: Subject, recipe: Recipe) -> dict[int, Any]:
    """The saved maps of a recipe, by lesion."""
    aggregate = METHODS[recipe.method].aggregate or recipe.heeded.get("aggregate")
    how = {"method": recipe.method, "aggregate": aggregate, "statistics": recipe.heeded.get("statistics", "exact")}
    saved = [one for one in read_maps(out, subject.name) if how.items() <= one.record.items()]
    return {one.record["lesion"]: one for one in saved}


def _run(
    subject: Subject,
    network: Network,
    found: Lesions,
    chosen: Sequence[Lesion],
    out: Path,
    recipe: Recipe,
    progress: bool,
) -> Run:
    """What the lesions share, computed where the folder does not hold it."""
    table = ContextTable(subject_folder(out, subject.name).parent / "perilesional_report.csv")
    table.add(subject, network, chosen, fill="blurred", by="mm", progress=progress)
    try:
        zones = LesionZones(subject)
    except ValueError:
        zones = f"the brain of {subject.name} does not lie where that of the MNI152 template does"
    uncertainty, members = _uncertainty(subject, network, chosen)
    unit = METHODS[recipe.method].unit
    mine: Any = table.curves[table.curves["network"] == network.name]
    return Run(subject, network, found, unit, zones, summarise_curves(mine), uncertainty, members)


def _uncertainty(subject: Subject, network: Network, lesions: Sequence[Lesion]) -> tuple[pd.DataFrame, str]:
    """Of each lesion, over the network's members; over noisy copies of the scan where it is one network alone."""
    try:
        count, source = len(members_of(network)), "members"
    except ValueError:
        count, source = NOISY, "noise"
    probabilities = member_probabilities(network, subject.image, source=source, draws=count)
    words = f"{count} members of the network" if source == "members" else f"{count} noisy copies of the scan"
    return lesion_uncertainty(probabilities, lesions, threshold=network.threshold), words


def plan(
    subject: Subject, network: Network, lesions: Sequence[Lesion], out: Path, recipe: Recipe, predicting: float
) -> str:
    """A sentence: what will be made, and how long it takes; `predicting` is how many seconds a prediction took."""
    todo = unfinished(subject, network, lesions, out, recipe)
    cost = recipe.cost(subject, network, todo) if todo else None
    scorers = [scorer_of(network, subject.image, lesion) for lesion in lesions]
    asked = len(STEPS) + 1 + 12  # a curve, and about as many doses
    seconds = (cost.seconds if cost else 0) + estimate_scores(scorers, [asked] * len(scorers)) + NOISY * predicting
    many = f"{len(lesions)} lesions" if len(lesions) != 1 else "1 lesion"
    made = f"{len(todo)} maps to make" if len(todo) != 1 else "1 map to make"
    return f"{many} of {subject.name} for the page, {made}, {asked} edited images a lesion: about {in_words(seconds)}."


# Pictures: three planes of each channel, a tile each, so that a phone can lay them out.

TILE_INCHES, TILE_DPI = 2.4, 120


@dataclass(frozen=True)
class Tile:
    """One plane of one channel."""

    alt: str
    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class Pictures:
    """The tiles of a lesion, plane after plane; where colours end, 0 without a map or with one of zeros."""

    tiles: tuple[Tile, ...]
    rows: int  # channels
    top: float


def draw_lesion(space: Canonical, lesion: Lesion, saliency: Saliency | None) -> Pictures:
    """Three planes through a lesion; without a map the first plane of the first channel alone."""
    mask = space.turn_mask(lesion)
    centre, frame = busiest(mask), space.frame_around(mask, CLOSE_UP_MM)
    maps = [] if saliency is None else [space.turn(channel) for channel in saliency.numpy()]
    top = largest_shown(maps, PLANES, centre, frame) if maps else 0.0
    tiles = []
    for plane, row in product(PLANES, range(len(maps))) if maps else [("axial", 0)]:
        figure = Figure(figsize=(TILE_INCHES, TILE_INCHES), dpi=TILE_DPI, facecolor="black")
        ax, values = figure.add_axes((0, 0, 1, 1)), maps[row] if maps else None
        draw_slice(ax, space, plane, centre, frame, row, values, symmetric(top), [(mask, "white")])
        ax.set_title("")
        content = BytesIO()
        figure.savefig(content, format="jpeg", pil_kwargs={"quality": 85, "subsampling": 0})
        caption = f"{space.channels[row]}, {plane}"
        alt = f"{space.channels[row]} through lesion {lesion.number}, {plane}, outlined" + _map_in_words(values)
        tiles.append(Tile(alt, caption, content.getvalue()))
    return Pictures(tuple(tiles), max(1, len(maps)), top)


def _map_in_words(values: np.ndarray | None) -> str:
    if values is None:
        return ""
    low, high = float(values.min()), float(values.max())
    return f"; over it the map, from {low:+.2g} to {high:+.2g}" if low or high else "; its map is zero everywhere"


# The page.

MEANINGS = {
    "TP": "the network finds it, and the reference drawing has it",
    "FP": "the network finds it, and the reference drawing does not have it",
    "FN": "the reference drawing has it, and the network misses it",
    "TN": "a place without a lesion",
    "unknown": "there is no reference drawing to say whether it is one",
}

READINGS = {
    GRADIENT_UNIT: "A map tells how the score of a lesion would change if one voxel were a little brighter: orange to "
    "red where the score would rise, blue where it would fall. It tells what the network reacts to, not what the "
    "tissue is.",
}
OTHER_READING = (
    "A map tells which voxels its method gives weight to for the score of a lesion: orange to red for it, blue against "
    "it. It tells what the network reacts to, not what the tissue is."
)
"""What a map says, by its unit."""

Shown = Callable[[LesionFacts], str]


def _zone(f: LesionFacts) -> str:
    return f"{f.zone.name} ({round(27 * f.zone.sure)} of 27)" if f.zone.name else "not sure"


def _doubt(f: LesionFacts) -> str:
    if not isfinite(f.doubt):
        return "unknown"
    if not f.members:
        return f"{f.doubt:.2f} of 1, from its mean probability alone"
    kind = "structural uncertainty" if isfinite(f.structural) else "entropy of the mean probability"
    return f"{f.doubt:.2f} of 1, {kind} over {f.members}"


def _size(f: LesionFacts) -> str:
    return f"{f.volume_mm3:.0f} mm³" if isfinite(f.volume_mm3) else f"{f.voxels} voxels"


def _dose(f: LesionFacts) -> str:
    if "dose" in f.reasons:
        return f"unknown: {f.reasons['dose']}"
    way, end = _answer(f)
    return f"{end} if {abs(f.dose):.2f} {way}" if isfinite(f.dose) else f"not {end}, even {MOST_DOSE:g} {way}"


def _channels(f: LesionFacts) -> str:
    parts = [
        f"{label_of(name)} {percent(f.shares[name])} (from {low:+.2g} to {high:+.2g})"
        for name, (low, high) in f.peaks.items()
    ]
    return "; ".join(parts)


def _known(value: float, words: str, f: LesionFacts, name: str) -> str:
    return words if isfinite(value) else f"unknown: {f.reasons.get(name, 'not measured')}"


COLUMNS: dict[str, Shown] = {
    "Group": lambda f: f.group,
    "Size": _size,
    "Zone": _zone,
    "Network's probability": lambda f: f"{f.probability:.2f}" if isfinite(f.probability) else "unknown",
    "Answer turns": _dose,
    "Doubt": lambda f: f"{f.doubt:.2f}" if isfinite(f.doubt) else "unknown",
}
"""What the table at the top says of each lesion."""

FACTS: dict[str, Shown] = {
    "Group": lambda f: f"{f.group}: {MEANINGS[f.group]}",
    "Size": lambda f: f"{_size(f)}, {f.voxels} voxels" if isfinite(f.volume_mm3) else _size(f),
    "Zone": lambda f: _zone(f) + (f"; {f.zone.why}" if f.zone.why else ""),
    "Network's probability": lambda f: _known(
        f.probability, f"mean {f.probability:.2f}, largest {f.highest:.2f}; threshold {f.threshold:g}", f, "probability"
    ),
    "Channels": _channels,
    "In the lesion": lambda f: _known(f.inside, f"{percent(f.inside)} of the map's strength", f, "inside"),
    "Tissue needed": lambda f: _known(f.needs_mm, f"{f.needs_mm:g} mm around it", f, "needs_mm"),
    "Brightness": lambda f: _known(
        f.contrast, f"{f.contrast:+.2f} in FLAIR, against white matter around it", f, "contrast"
    ),
    "Answer turns": _dose,
    "Doubt": _doubt,
}
"""What the table of one lesion says."""


def about(run: Run, record: Mapping[str, Any], recipe: Recipe) -> dict[str, str]:
    """What the head of the page says of the run, by heading."""
    counts = repr(run.lesions).removeprefix("Lesions(").removesuffix(")")
    draws = f", {record['draws']} draws" if record.get("draws") else ""
    said = f"{recipe.name}{draws}, of the network seen {'whole' if record['through'] == 'whole' else 'by windows'}"
    return {
        "Patient": run.subject.name,
        "Network": f"{record['network']} ({record['digest']})",
        "Lesions": f"{counts}",
        "Maps": f"{said}; {run.unit}",
        "Made by": f"ies-helpers {record['versions']['ies-helpers']}" if "versions" in record else "ies-helpers",
    }


def page(facts: Sequence[LesionFacts], pictures: Mapping[int, Pictures], head: Mapping[str, str]) -> str:
    """The page as HTML: the facts of its lesions in their order, and the pictures by lesion, of other lesions too."""
    if not facts:
        raise ValueError("A page must have a lesion to show, got none.")
    parts = {
        "title": escape(f"Lesions of {facts[0].subject}"),
        "head": "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in head.items()),
        "columns": "".join(f'<th scope="col">{escape(name)}</th>' for name in ("Lesion", *COLUMNS)),
        "rows": "\n".join(_table_row(f) for f in facts),
        "sections": "\n".join(_section(f, pictures, {g.lesion: g.group for g in facts}) for f in facts),
        "reading": escape(READINGS.get(facts[0].unit, OTHER_READING)),
        "rules": "".join(f"<dt>{escape(s.question)}</dt><dd>{escape(s.rule)}</dd>" for s in SENTENCES),
        "ramp": ", ".join(to_hex(_over_grey(SIGNED(n / 20))) for n in range(21)),
        "most": f"{MOST_DOSE:g}",
    }
    return Template((files("ies_helpers.figures") / "report.html").read_text(encoding="utf-8")).substitute(parts)


def _over_grey(colour: Sequence[float]) -> tuple[float, float, float]:
    """A see-through colour as it looks over grey tissue."""
    red, green, blue = (0.4 * (1 - colour[3]) + c * colour[3] for c in colour[:3])
    return red, green, blue


def _table_row(f: LesionFacts) -> str:
    cells = (f'<td data-of="{escape(name)}">{escape(show(f))}</td>' for name, show in COLUMNS.items())
    return f'<tr><th scope="row"><a href="#{f.name}">Lesion {f.lesion}</a></th>{"".join(cells)}</tr>'


def _section(f: LesionFacts, pictures: Mapping[int, Pictures], shown: Mapping[int, str]) -> str:
    own = pictures[f.lesion]
    said = "".join(f"<p><strong>{escape(s.question)}</strong> {escape(s(f))}</p>" for s in SENTENCES)
    tiles = "".join(_figure(tile, tile.caption) for tile in own.tiles)
    rows = "".join(f'<tr><th scope="row">{escape(n)}</th><td>{escape(show(f))}</td></tr>' for n, show in FACTS.items())
    return (
        f'<section id="{f.name}" aria-labelledby="{f.name}-title">'
        f'<h2 id="{f.name}-title">Lesion {f.lesion} <span>{escape(f.group)}: {escape(MEANINGS[f.group])}</span></h2>'
        f'{said}<div class="tiles" style="--rows: {own.rows}">{tiles}</div>{_bar(own.top, f.unit)}'
        f"<table><tbody>{rows}</tbody></table>{_alike(f, pictures, shown)}"
        '<p class="up"><a href="#top">All lesions</a></p></section>'
    )


def _figure(tile: Tile, caption: str) -> str:
    source = f"data:image/jpeg;base64,{b64encode(tile.jpeg).decode()}"
    side = round(TILE_INCHES * TILE_DPI)
    image = f'<img src="{source}" alt="{escape(tile.alt)}" width="{side}" height="{side}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _bar(top: float, unit: str) -> str:
    if not top:
        return "<p>The map is zero everywhere that is shown.</p>"
    told = f"Colours from blue, {-top:+.2g}, over none at 0 to red, {top:+.2g} {unit}"
    ends = f"<span>{-top:+.2g}</span><span>0</span><span>{top:+.2g}</span>"
    return f'<div class="bar" role="img" aria-label="{escape(told)}"><i></i><div>{ends}</div>{escape(unit)}</div>'


def _alike(f: LesionFacts, pictures: Mapping[int, Pictures], shown: Mapping[int, str]) -> str:
    """The lesions most like it, each a picture, and a link where it has a section."""
    figures = []
    for group, alike in f.alike.items():
        kind = "Among the true" if group == "TP" else "Among the false"
        number = f"lesion {alike.lesion}"
        name = f'<a href="#L{alike.lesion:03d}">{number}</a>' if alike.lesion in shown else number
        said = f"{kind}: {name}, by {escape(alike.by)}, {alike.apart:.1f} apart"
        figures.append(_figure(pictures[alike.lesion].tiles[0], said))
    if not figures:
        return "<p>No other lesion of this run is known to be true or false.</p>"
    return f'<h3>Most like it in this run</h3><div class="tiles">{"".join(figures)}</div>'
