"""How sure a network is of a lesion, of a patient and of a map: what its members, or its own draws, disagree about.

Several answers to one image come from an ensemble's members, or from one network that is asked again about noisy
copies of the image or with its dropout left on. Their disagreement is measured where a reader meets it: on whole
lesions (Molchanova et al., arXiv 2311.08931), on the voxels inside them, on a patient, and on the lesion's saliency
map. Whether a measure is any good, an error-retention curve says: do the lesions that it doubts turn out to be false?
"""

import functools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from scipy.integrate import trapezoid
from scipy.special import entr
from scipy.stats import hypergeom
from torch import nn

from ies_helpers.arrays import Saliency, Volume, as_voxels, check_choice, check_finite, check_seed, door
from ies_helpers.measures.groups import valued
from ies_helpers.measures.resample import NO_INTERVAL, Interval, draw_times, interval_of, note_on_subjects
from ies_helpers.saliency.smoothgrad import NOISE_SHARE, check_noise, noise_sigma, noisy_image
from ies_helpers.segmentation.field import receptive_field
from ies_helpers.segmentation.inference import predict
from ies_helpers.segmentation.lesions import Lesion, Lesions, components
from ies_helpers.segmentation.network import Averaged, Copies, Network, as_network, check_alike, copy_of, prepare
from ies_helpers.subjects.subject import SHIPPED, Subject
from ies_helpers.subjects.tissue import brain_mask

# Several answers to one image.

Source = Literal["members", "noise", "dropout"]
Networks = Network | nn.Module | Sequence[Network]


def members_of(network: Networks) -> list[Network]:
    """The networks whose answers an ensemble averages, each by itself: its members, with their mirrored copies if any.

    Args:
        network: one of `Copies` (an nnU-Net's folds and mirrors, `unet:ensemble`: a network a pass) or of `Averaged`
            (LST-AI), or several networks.

    Raises:
        ValueError: for one that is alone, and for members that take other channels or mean another class.
    """
    if isinstance(network, Sequence):
        if len(network) < 2:
            raise ValueError(f"Members disagree where there are two or more, got {len(network)}; give more networks.")
        check_alike(network, "channels", "classes", "lesion_class")
        return list(network)
    network = as_network(network)
    module = network.module
    if isinstance(module, Copies):
        alone = [Copies([module.members[member]], [flip]) for member, flip in module.passes]
        layer = network.layer
    else:
        alone = list(module.members) if isinstance(module, Averaged) else []
        layer = network.layer and network.layer.removeprefix("members.0.")
    if len(alone) < 2:
        raise ValueError(
            f"Members disagree where there are two or more, {network.name} is one network: give an ensemble (as "
            "unet:ensemble), an nnU-Net's folder with several folds, or draws: source='noise' or 'dropout'."
        )
    return [replace(network, module=one, name=f"{network.name}-{n}", layer=layer) for n, one in enumerate(alone, 1)]


@door
def member_probabilities(
    network: Networks,
    image: Volume,
    *,
    source: Source = "members",
    draws: int = 10,
    seed: int = 0,
    noise: float = NOISE_SHARE,
) -> torch.Tensor:
    """Several answers to one image, `(M, I, J, K)` float32 probabilities of lesion.

    Args:
        network: see `members_of`; for draws any network, an ensemble too, as a whole.
        image: `(C, I, J, K)`.
        source: `members` asks each member once. `noise` asks one network about the noisy images of SmoothGrad's draws:
            how far a map's draws agree on the lesion itself, no estimate of how the network would have learnt
            otherwise. `dropout` leaves the dropout on (Gal and Ghahramani, ICML 2016), if it was trained with any.
        draws, seed: of noise and dropout; draw n depends on `seed` and n alone.
        noise: standard deviation over the range of FLAIR.
    """
    check_source(network, source=source, draws=draws, seed=seed, noise=noise)
    if source == "members":
        return torch.stack([predict(member, image) for member in members_of(network)])
    assert not isinstance(network, Sequence)
    network = as_network(network)
    if source == "dropout":
        return _with_dropout(network, image, draws, seed)
    sigma = noise_sigma(image, noise, network.channels)
    return torch.stack([predict(network, noisy_image(image, sigma, seed, n)) for n in range(draws)])


def check_source(network: Networks, *, source: str, draws: int, seed: int, noise: float) -> None:
    """Refuse what `member_probabilities` cannot ask, before anything is computed."""
    check_choice("source", source, get_args(Source))
    if source == "members":
        members_of(network)
        return
    check_noise(draws, noise, seed)
    if isinstance(network, Sequence):
        raise ValueError(f"Draws are of one network, got {len(network)}; take source='members', or one of them.")
    if isinstance(draws, str) or draws < 2:
        raise ValueError(f"Draws disagree where there are two or more, got {draws}; take 10.")
    if source == "noise" and noise == 0:
        raise ValueError("Draws of noise 0 are all alike, got noise=0; take the usual 0.05.")
    if source == "dropout" and not _dropouts(as_network(network).module):
        raise ValueError(
            f"Dropout draws need a layer of dropout, {as_network(network).name} has none: take source='noise', or an "
            "ensemble."
        )


def _dropouts(module: nn.Module) -> list[nn.Module]:
    """The layers that drop something, in training."""
    return [m for m in module.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]


def _with_dropout(network: Network, image: Volume, draws: int, seed: int) -> torch.Tensor:
    """`(M, I, J, K)`: predictions of a copy whose dropout stays on, whatever mode the rest of it is set to."""
    module = copy_of(network.module)
    # How far it looks is found out in peace: what is random cannot be probed.
    stride = network.stride
    if network.grid is None and stride is None:
        stride = receptive_field(network, len(image)).stride
    for layer in _dropouts(module):
        layer.train(True)
        layer.train = functools.partial(_unmoved, layer)  # pyright: ignore[reportAttributeAccessIssue]
    awake, devices = replace(network, module=module, stride=stride), [network.device] * (network.device.type == "cuda")
    answers = []
    with torch.random.fork_rng(devices):
        predict(awake, image)  # what it remembers of the module, it has asked by now
        for n in range(draws):
            torch.manual_seed(int(np.random.SeedSequence([seed, n]).generate_state(1)[0]))
            answers.append(predict(awake, image))
    return torch.stack(answers)


def _unmoved(layer: nn.Module, mode: bool = True) -> nn.Module:
    """What `layer.train` does on a layer that keeps its mode."""
    return layer


# One lesion.

MISSED = "missed: nothing was marked here whose outline members could disagree about"


@door
def lesion_uncertainty(
    probabilities: torch.Tensor, lesions: Lesions | Iterable[Lesion], *, threshold: float | Sequence[float]
) -> pd.DataFrame:
    """How far the members agree on each lesion, a row a lesion.

    Structural uncertainty compares outlines. With L a lesion that was found and C_m the lesions of member m, of more
    than 5 voxels above the threshold, `structural` = 1 - mean over m of the largest IoU(L, c) of c in C_m: 0 where
    every member draws this lesion, 1 where none has anything here. It is LSU of Molchanova et al. (arXiv 2311.08931),
    and their LSU+ where `threshold` has one number a member. A member that splits a lesion in two scores as if it had
    lost one of them; `structural_all` (ours) therefore takes for c everything of C_m that touches L at once.

    With p_m the probabilities and p their mean, h(x) = -x ln x - (1 - x) ln (1 - x), in nats, mean over the lesion's
    voxels: `entropy_of_mean` h(p), all there is to doubt; `expected_entropy` mean h(p_m), what each member doubts by
    itself; `mutual_information` their difference, what the members disagree about.

    Args:
        probabilities: `(M, I, J, K)`, see `member_probabilities`.
        lesions: of the network as a whole. For a missed lesion (FN) and a control (TN) structure is NaN: 1 would mean
            that all members agree.
        threshold: above which a voxel is lesion, for all members or one each.

    Returns:
        Columns `lesion, group, voxels, probability` (mean over members and voxels)`, structural, structural_all,
        entropy_of_mean, mutual_information, expected_entropy, note`.
    """
    members, cuts = _checked(probabilities, threshold)
    parts = [_parts_of(member, cut) for member, cut in zip(members, cuts, strict=True)]
    rows = []
    for lesion in lesions:
        voxels = as_voxels(lesion, members.shape[1:])
        found = lesion.group not in ("FN", "TN")
        best, whole = np.mean([_overlaps(part, voxels) for part in parts], axis=0) if found else (np.nan, np.nan)
        inside = members[:, *voxels.T].astype(np.float64)
        row = {"lesion": lesion.number, "group": lesion.group, "voxels": len(voxels), "probability": inside.mean()}
        row |= {"structural": 1 - best, "structural_all": 1 - whole} | _entropies(inside)
        rows.append(row | {"note": "" if found else MISSED})
    names = ["lesion", "group", "voxels", "probability", "structural", "structural_all", *ENTROPIES, "note"]
    return pd.DataFrame(rows, columns=names)


ENTROPIES = ("entropy_of_mean", "mutual_information", "expected_entropy")


def _entropies(inside: np.ndarray) -> dict[str, float]:
    """Mean over voxels of what `(M, V)` float64 probabilities leave open, in nats."""
    total = _binary_entropy(inside.mean(axis=0)).mean()
    own = _binary_entropy(inside).mean()
    return dict(zip(ENTROPIES, (float(total), max(0.0, float(total - own)), float(own)), strict=True))


def _binary_entropy(p: np.ndarray) -> np.ndarray:
    """h(p) in nats; 0 for 0 and 1."""
    return entr(p) + entr(1 - p)


def _parts_of(member: np.ndarray, cut: float) -> tuple[np.ndarray, np.ndarray]:
    """A member's lesions: numbers from 1 `(I, J, K)`, and the voxels of each number, of 0 none."""
    numbers, sizes = np.zeros(member.shape, dtype=np.int32), [0]
    for n, voxels in enumerate(components(member > cut), 1):
        numbers[tuple(voxels.T)] = n
        sizes.append(len(voxels))
    return numbers, np.array(sizes)


def _overlaps(part: tuple[np.ndarray, np.ndarray], voxels: np.ndarray) -> tuple[float, float]:
    """IoU of a lesion `(V, 3)` with the member's lesion that is most like it, and with all that touch it as one."""
    numbers, sizes = part
    shared = np.bincount(numbers[tuple(voxels.T)], minlength=len(sizes))
    shared[0] = 0
    touched = shared > 0
    if not touched.any():
        return 0.0, 0.0
    best = (shared / (sizes + len(voxels) - shared))[touched].max()
    return float(best), float(shared.sum() / (sizes[touched].sum() + len(voxels) - shared.sum()))


def _checked(probabilities: torch.Tensor, threshold: float | Sequence[float]) -> tuple[np.ndarray, list[float]]:
    """Members as `(M, I, J, K)` array, and the threshold of each."""
    if isinstance(probabilities, Sequence):
        shapes = {tuple(p.shape) for p in probabilities}
        if len(shapes) > 1:
            raise ValueError(f"Members must lie on one grid, got {' and '.join(map(str, sorted(shapes)))}.")
        probabilities = torch.stack(list(probabilities))
    members = np.asarray(probabilities)
    if members.ndim != 4 or len(members) < 2:
        raise ValueError(
            f"Members must be probabilities (M, I, J, K) of two or more, got {members.shape}: one alone disagrees with "
            "nobody. Take member_probabilities of an ensemble, or with source='noise'."
        )
    if not ((members >= 0) & (members <= 1)).all():
        raise ValueError(f"Probabilities must lie between 0 and 1, got {members.min():g} to {members.max():g}.")
    cuts = [float(cut) for cut in (threshold if isinstance(threshold, Sequence) else [threshold] * len(members))]
    if len(cuts) != len(members) or not all(0 < cut < 1 for cut in cuts):
        raise ValueError(
            f"A threshold must lie between 0 and 1, one for all or one for each of {len(members)} members; got "
            f"{threshold}."
        )
    return members, cuts


# One patient.


@door
def patient_uncertainty(
    probabilities: torch.Tensor,
    lesions: Lesions | Iterable[Lesion],
    *,
    threshold: float | Sequence[float],
    brain: np.ndarray | torch.Tensor | None = None,
) -> dict[str, Any]:
    """How far the members agree on a patient: one row, of all lesions together and of the brain.

    `structural` = 1 - mean over m of IoU(S, S_m), with S all voxels of the lesions that were found and S_m those of
    member m: PSU of Molchanova et al. (arXiv 2311.08931). It is NaN, and `note` says why, where none was found. As an
    overlap of volumes it is ruled by the large lesions; `mean_structural` is the mean of the lesions' own, in which
    each counts the same. The entropies, as of `lesion_uncertainty`, are means over the brain: mostly healthy tissue.

    Args:
        probabilities, lesions, threshold: as of `lesion_uncertainty`.
        brain: `(I, J, K)` bool; None takes the whole volume.

    Returns:
        `members, lesions` (found)`, structural, mean_structural, entropy_of_mean, mutual_information,
        expected_entropy, note`.
    """
    members, cuts = _checked(probabilities, threshold)
    shape = members.shape[1:]
    where = np.ones(shape, dtype=bool) if brain is None else np.asarray(brain, dtype=bool)
    if where.shape != shape or not where.any():
        raise ValueError(
            f"A brain must be a mask {shape} that is not empty, got {where.shape} of {where.sum()} voxels."
        )
    found = [lesion for lesion in lesions if lesion.group not in ("FN", "TN")]
    row: dict[str, Any] = {"members": len(members), "lesions": len(found)}
    if found:
        whole = np.zeros(shape, dtype=bool)
        for lesion in found:
            whole[tuple(as_voxels(lesion, shape).T)] = True
        parts = [_parts_of(member, cut) for member, cut in zip(members, cuts, strict=True)]
        theirs = [numbers > 0 for numbers, _ in parts]
        row["structural"] = 1 - float(np.mean([(whole & own).sum() / (whole | own).sum() for own in theirs]))
        best = [[_overlaps(part, as_voxels(lesion, shape))[0] for part in parts] for lesion in found]
        row["mean_structural"] = 1 - float(np.mean(best))
    else:
        row |= {"structural": np.nan, "mean_structural": np.nan}
    return row | _entropies(members[:, where].astype(np.float64)) | {"note": "" if found else "no lesion was found"}


def subject_uncertainty(
    subject: Subject, network: Network | nn.Module, lesions: Lesions | Iterable[Lesion], **how: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The uncertainty of a subject's lesions, a row a lesion, and of the subject, one row; see the functions above.

    `network` and `subject` are brought together by `prepare`; `how` is for `member_probabilities`.
    """
    network, subject = prepare(network, subject)
    probabilities = member_probabilities(network, subject.image, **how)
    table = lesion_uncertainty(probabilities, lesions, threshold=network.threshold)
    brain = brain_mask(subject.image, filled=True)
    row = patient_uncertainty(probabilities, lesions, threshold=network.threshold, brain=brain)
    about = {"subject": subject.name, "network": network.name, "source": how.get("source", "members")}
    return table, pd.DataFrame([about | row])


# Is the doubt worth something?

RETAINED = np.linspace(0, 1, 101)  # shares of lesions kept, at which curves of several patients are averaged


@dataclass(frozen=True, eq=False)
class Retention:
    """Precision while the least sure lesions are handed to an expert: means over patients."""

    kept: np.ndarray  # (101,) share of the found lesions that the network still answers for, from 0 to 1
    ppv: np.ndarray  # (101,) share of true ones among what is then called lesion
    ideal: np.ndarray  # the same if every false lesion were doubted before any true one
    random: np.ndarray  # the same if the lesions were doubted in random order: its expectation
    area: float  # under `ppv`; of each patient's own steps, then the mean
    ideal_area: float
    random_area: float
    interval: Interval  # of `area`, 95 %, patients drawn with replacement
    false: int
    true: int
    subjects: int
    note: str

    @property
    def gain(self) -> float:
        """What the doubt is worth: 0 as random, 1 as good as can be, below 0 worse than random; NaN without errors."""
        most = self.ideal_area - self.random_area
        return (self.area - self.random_area) / most if most > 0 else np.nan


def retention_curve(
    table: pd.DataFrame,
    measure: str,
    *,
    false_when: Literal["low", "high"] = "high",
    resamples: int = 1000,
    seed: int = 0,
) -> Retention:
    """Error retention at the scale of lesions: found lesions are handed over, the most doubtful first.

    An expert corrects what is handed over: a false lesion goes, a true one stays. With T true and F false lesions of a
    patient, of which f false ones are handed over already, the positive predictive value is T / (T + F - f). Plotted
    against the share still kept it falls from 1 at 0 to the network's own at 1, and the slower the better the doubt
    (arXiv 2311.08931, LPPV-RC). A curve is made for each patient and is straight between its steps. Lesions that are
    equally doubtful have no order: in a tie we take the expectation over all orders, and so for `random`.

    Missed lesions are not in it: nobody hands over what nobody marked. A patient without a true lesion is left out,
    with a note, as its last value is 0 / 0.

    Args:
        table: a row a lesion, columns `subject`, `group` and the measure; groups other than TP and FP, and lesions
            without a value, are left out.
        measure: a column.
        false_when: which end of it is doubt: `high` for an uncertainty, `low` for a probability or a size.
        resamples, seed: of the interval.
    """
    check_choice("false_when", false_when, ("low", "high"))
    check_seed(seed)
    found: Any = valued(table, measure)
    found = found[found["group"].isin(["TP", "FP"])]
    found = found.assign(doubt=found[measure] * (1 if false_when == "high" else -1))
    usable: Any = found.groupby("subject").filter(lambda its: (its["group"] == "TP").any())
    true, false = (int((usable["group"] == group).sum()) for group in ("TP", "FP"))
    if not true:
        raise ValueError(
            f"A retention curve needs a patient with a true lesion; of {len(found)} found lesions with a value of "
            f"{measure} none is true. Take patients with a target."
        )
    left_out = found["subject"].nunique() - usable["subject"].nunique()
    curves, areas = _curves_of(usable)
    notes = [note_on_subjects(len(areas)), f"{left_out} without a true lesion left out" if left_out else ""]
    notes += [] if false else ["no false lesion: nothing to hand over"]
    times = draw_times(np.random.default_rng(seed), resamples, len(areas))
    interval = interval_of(times @ areas[:, 0] / len(areas)) if len(areas) > 1 else NO_INTERVAL
    own, ideal, random = curves.mean(axis=0)
    area, best, chance = (float(mean) for mean in areas.mean(axis=0))
    counts, note = (false, true, len(areas)), "; ".join(filter(None, notes))
    return Retention(RETAINED, own, ideal, random, area, best, chance, interval, *counts, note)


def _curves_of(found: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each patient the curve at `RETAINED`, the ideal and the random one, `(S, 3, 101)`; their areas `(S, 3)`."""
    curves, areas = [], []
    for _, its in found.groupby("subject", sort=False):
        false, doubt = (its["group"] == "FP").to_numpy(), its["doubt"].to_numpy(dtype=np.float64)
        kept = np.arange(len(its) + 1) / len(its)
        steps = [_handed_over(false, order)[::-1] for order in (doubt, false.astype(float), np.zeros(len(its)))]
        curves.append([np.interp(RETAINED, kept, ppv) for ppv in steps])
        areas.append([trapezoid(ppv, kept) for ppv in steps])
    return np.array(curves), np.array(areas)


def _handed_over(false: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """`(n + 1,)`: the PPV after 0, 1, ..., n lesions were handed over, expected over the orders of equal ones."""
    true, left = int((~false).sum()), int(false.sum())
    values = [true / len(false)]
    for level in np.unique(doubt)[::-1]:
        tied = doubt == level
        size, wrong = int(tied.sum()), int(false[tied].sum())
        gone = np.arange(wrong + 1)
        for taken in range(1, size + 1):
            chance = hypergeom.pmf(gone, size, wrong, taken)
            values.append(float((chance * true / (true + left - gone)).sum()))
        left -= wrong
    return np.array(values)


# The map.


@dataclass(frozen=True, eq=False)
class Spread:
    """How far maps of one lesion agree, over members."""

    mean: Saliency  # (C, I, J, K) float32: of the members' maps
    deviation: Saliency  # (C, I, J, K) float32: standard deviation over members (n - 1), in the map's unit
    table: pd.DataFrame  # a row a channel and one for `all`: `channel, relative_deviation, correlation, relative_l2`


@door
def map_spread(maps: Sequence[Saliency] | torch.Tensor, channels: Sequence[str] | None = None) -> Spread:
    """How much of a lesion's map is the network's and how much the member's: the spread of its maps over members.

    The maps are taken as they are, in their unit: normalised by their peaks they would hide that members differ in
    strength. In the table, for each channel and for all together, over the voxels where any member's map is not 0:

    - `relative_deviation`: `|s| / |m|`, the L2 norm of the deviation over that of the mean map: 0 for maps that are
      equal, 1 where they scatter as much as they agree;
    - `correlation`: Pearson's, mean over all pairs of members: blind to strength;
    - `relative_l2`: `|a - b| / sqrt((|a|^2 + |b|^2) / 2)`, mean over all pairs: 0 equal, sqrt(2) for maps that have
      nothing in common, 2 for opposite ones.

    They are NaN, with a warning that says why, where the mean map is zero or a member's is the same everywhere.

    Args:
        maps: `(C, I, J, K)` each, of one lesion, method and grid, two or more.
        channels: their names; usual for two are FLAIR and T1.
    """
    shapes = [tuple(m.shape) for m in maps]
    if len(shapes) < 2:
        raise ValueError(f"Maps have a spread from two on, got {len(shapes)}; give a map for each of members_of.")
    if len(set(shapes)) > 1 or len(shapes[0]) != 4:
        raise ValueError(f"Maps must be (C, I, J, K) on one grid, got {' and '.join(map(str, dict.fromkeys(shapes)))}.")
    given = np.stack([np.asarray(m, dtype=np.float64) for m in maps])
    check_finite(given, "Maps", "explain anew")
    names = tuple(channels or (SHIPPED if shapes[0][0] == len(SHIPPED) else map(str, range(shapes[0][0]))))
    if len(names) != shapes[0][0]:
        raise ValueError(f"Each of {shapes[0][0]} channels must have a name, got {', '.join(names)}.")
    parts = {name: given[:, n] for n, name in enumerate(names)} | {"all": given}
    rows = [{"channel": name} | _spread_of(part.reshape(len(given), -1), name) for name, part in parts.items()]
    mean, deviation = given.mean(axis=0), given.std(axis=0, ddof=1)
    return Spread(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float(), pd.DataFrame(rows))


def _spread_of(values: np.ndarray, name: str) -> dict[str, float]:
    """The numbers of `(M, N)` float64 maps of one channel, or of all."""
    values = values[:, values.any(axis=0)]
    norms = np.linalg.norm(values, axis=1)
    mean = np.linalg.norm(values.mean(axis=0))
    found: dict[str, float] = dict.fromkeys(SPREADS, np.nan)
    if mean > 0:
        found["relative_deviation"] = float(np.linalg.norm(values.std(axis=0, ddof=1)) / mean)
    centred = values - values.mean(axis=1, keepdims=True) if norms.any() else values
    scales, pairs = np.linalg.norm(centred, axis=1), list(combinations(range(len(values)), 2))
    if (scales > FLAT * np.maximum(norms, np.finfo(float).tiny)).all():
        found["correlation"] = float(np.mean([centred[a] @ centred[b] / (scales[a] * scales[b]) for a, b in pairs]))
    sums = [np.sqrt((norms[a] ** 2 + norms[b] ** 2) / 2) for a, b in pairs]
    if all(sums):
        apart = [np.linalg.norm(values[a] - values[b]) / total for (a, b), total in zip(pairs, sums, strict=True)]
        found["relative_l2"] = float(np.mean(apart))
    missing = [key.replace("_", " ") for key, value in found.items() if np.isnan(value)]
    if missing:
        why = "a member's map is zero, or the same, everywhere, or their mean is zero"
        warnings.warn(f"The {', '.join(missing)} of the maps ({name}) is NaN: {why}.", stacklevel=4)
    return found


SPREADS = ("relative_deviation", "correlation", "relative_l2")
FLAT = 1e-12  # of a map's norm: what is left of one that is the same everywhere, after its mean is taken off
