"""How a map is made: `Recipe`, one frozen set of checked settings, and METHODS, one row an attribution method.

Everything else derives from these two: the options of `ies explain` and the keys of a cohort's file with their checks,
what a sidecar tells and a file is called, when a finished map is that of another recipe, the estimate, the plan, and
the sentences of errors. A new method is one row and one function; a new setting one field of `Recipe`.

The command line reads this module for its help, so nothing heavy is imported until a map is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ies_helpers.arrays import Saliency
    from ies_helpers.saliency.farfield import Report
    from ies_helpers.saliency.smoothgrad import RunState
    from ies_helpers.segmentation.lesions import Lesion
    from ies_helpers.segmentation.network import Network
    from ies_helpers.subjects.subject import Subject

    State = RunState | None

GRADIENT_UNIT = "logit per unit of z-scored intensity"
CAM_UNIT = "arbitrary (weighted activation)"
LOGIT = "logit"

Made = Iterator[tuple[int, "Saliency", dict[str, Any]]]
"""A lesion's position among those asked for, its map `(C, I, J, K)` or `(1, I, J, K)`, and notes for its sidecar."""


class Cost(NamedTuple):
    """What maps will take."""

    seconds: float  # on this machine
    passes: str  # what takes them, in words: `50 draws by cone`
    at_most: bool = False  # whether it may well be less


@dataclass(frozen=True)
class Method:
    """One way to make a lesion's map.

    `run(subject, network, lesions, recipe, state, progress)` makes the maps one after another; a method whose lesions
    share work may keep sums in the `state`, and clears it when all maps are made.
    """

    run: Callable[[Subject, Network, Sequence[Lesion], Recipe, State, bool], Made]
    unit: str  # of the maps' values
    heeds: tuple[
        str, ...
    ] = ()  # settings of a recipe that change its maps; sidecars tell them, others make no other map
    aggregate: str | None = None  # of the lesion's voxels, where that is part of the method, not of the recipe
    settings: Mapping[str, Any] = field(default_factory=dict)  # what its function is given too, the same in every run
    reads_layer: bool = False  # whether it reads the activations of `network.layer`
    cost: Callable[[Subject, Network, Sequence[Lesion], Recipe], Cost] | None = None  # None: a pass or two a lesion
    check: Callable[[Recipe], None] = lambda recipe: None  # what it alone refuses, before anything is loaded


def setting(default: Any, told: str, *choices: str) -> Any:
    """A field of `Recipe`: its default, what it means in one sentence, and the words that it may be, if only some."""
    return field(default=default, metadata={"help": told, "choices": choices})


@dataclass(frozen=True)
class Recipe:
    """How a map is made; refused where it cannot work, before anything is loaded. `help(Recipe)` tells its fields."""

    method: str = setting("smoothgrad", "How a map is made.")
    aggregate: str = setting("max", "Over the lesion's voxels.", "mean", "sum", "max")
    draws: int | str = setting(50, "Noisy images: a number, or auto, which stops when the peak is known well.")
    noise: float = setting(0.05, "Noise as a share of the range of FLAIR, or without one of the first channel.")
    seed: int = setting(0, "Of what is drawn at random.")
    through: str | None = setting(None, "Explain the network seen whole or through its windows.", "whole", "windows")
    statistics: str = setting("exact", "frozen: leave far fields out, however much that is.", "exact", "frozen")
    accuracy: float | str = setting("auto", "Error allowed where max is dear: as 0.001 (auto), or exact.")
    baseline: str = setting("zero", "What the image is compared with.", "zero", "mean", "blurred")

    def __post_init__(self) -> None:
        from ies_helpers.arrays import check_choice
        from ies_helpers.saliency.smoothgrad import check_noise

        check_choice("method", self.method, tuple(METHODS))
        for each in fields(self):
            choices, value = each.metadata["choices"], getattr(self, each.name)
            if choices and value != each.default:
                check_choice(each.name, value, choices)
        check_noise(self.draws, self.noise, self.seed)
        if self.statistics == "frozen" and ("statistics" not in METHODS[self.method].heeds or self.aggregate != "max"):
            allowed, met = " and ".join(methods_heeding("statistics")), f"{self.method} with {self.aggregate}"
            raise ValueError(f"statistics='frozen' is for {allowed} with max, got {met}; leave it out, which is exact.")
        if self.accuracy != "auto":  # which needs no torch to be checked
            self._check_accuracy()
        for name, fixed in METHODS[self.method].settings.items():
            if (given := getattr(self, name, fixed)) != fixed:
                raise ValueError(f"{self.method} takes the {name} {fixed}, got {given!r}; leave it out.")
        METHODS[self.method].check(self)

    def _check_accuracy(self) -> None:
        from ies_helpers.saliency.farfield import check_accuracy

        check_accuracy(self.accuracy)
        if self.aggregate != "max" or "accuracy" not in METHODS[self.method].heeds:
            allowed, met = " and ".join(methods_heeding("accuracy")), f"{self.method} with {self.aggregate}"
            raise ValueError(f"accuracy is for {allowed} with max, got {met}, which is exact; leave it out.")

    @property
    def heeded(self) -> dict[str, Any]:
        """The settings that change the maps of its method."""
        return {name: getattr(self, name) for name in METHODS[self.method].heeds}

    @property
    def name(self) -> str:
        """What the name of a map tells beside its lesion: `smoothgrad max exact`."""
        return " ".join([self.method, *(self.heeded[key] for key in ("aggregate", "statistics") if key in self.heeded)])

    def view_of(self, network: Network, channels: int) -> Network:
        """The network as an image of so many channels is explained; refused before any long work where it cannot be."""
        if self.through is not None:
            network = network.explained_through(self.through)  # pyright: ignore[reportArgumentType]
        if METHODS[self.method].reads_layer:
            from ies_helpers.saliency.gradcam import find_layer

            find_layer(network, network.layer)
        if self.statistics == "frozen":
            from ies_helpers.saliency.farfield import check_norms

            check_norms(network)
        return network

    def maps(
        self, subject: Subject, network: Network, lesions: Sequence[Lesion], state: State = None, progress: bool = False
    ) -> Made:
        """The lesions' maps one after another, each with its position and notes; see `Method.run`."""
        return METHODS[self.method].run(subject, network, lesions, self, state, progress)

    def cost(self, subject: Subject, network: Network, lesions: Sequence[Lesion]) -> Cost | None:
        """What maps of these lesions will take; None where that is not worth a look."""
        cost = METHODS[self.method].cost
        return cost(subject, network, lesions, self) if cost else None


Recipe.__doc__ = f"{Recipe.__doc__}\n\n    Attributes:\n" + "".join(
    f"        {each.name}: {each.metadata['help']}\n" for each in fields(Recipe)
)


def methods_heeding(name: str) -> list[str]:
    """The methods whose maps a setting changes."""
    return [method for method, row in METHODS.items() if name in row.heeds]


def one_by_one(prepare: Callable[..., Callable[[Lesion], tuple[Saliency, dict[str, Any]]]]) -> Callable[..., Made]:
    """The `run` of a method that makes one lesion's map after another.

    `prepare(subject, network, recipe)` is called once, and gives what makes a lesion's map and its notes.
    """

    def run(
        subject: Subject, network: Network, lesions: Sequence[Lesion], recipe: Recipe, state: State, progress: bool
    ) -> Made:
        from tqdm.auto import tqdm

        attribute = prepare(subject, network, recipe)
        for n, lesion in enumerate(tqdm(lesions, desc=recipe.method, unit="lesion", disable=not progress)):
            yield n, *attribute(lesion)

    return run


# Gradients, averaged over noisy images or of the image as it is.


def _smoothgrad(
    subject: Subject, network: Network, lesions: Sequence[Lesion], recipe: Recipe, state: State, progress: bool
) -> Made:
    from ies_helpers.saliency.smoothgrad import smoothgrad_each

    how = recipe.heeded | {"state": state, "progress": progress, "channels": subject.channels}
    for n, average in smoothgrad_each(network, subject.image, lesions, **how):
        peak = average.peak
        error = peak.standard_error if isfinite(peak.standard_error) else None
        where = {"modality": subject.channels[peak.channel], "voxel": list(peak.voxel)}
        notes = {"draws": average.draws, "peak": {"value": peak.value, "standard_error": error} | where}
        yield n, average.full(subject.shape), notes | _told(average.report)
    if state:
        state.clear()


def _gradient(
    subject: Subject, network: Network, lesions: Sequence[Lesion], recipe: Recipe, state: State, progress: bool
) -> Made:
    from tqdm.auto import tqdm

    from ies_helpers.saliency.gradients import LesionGradient, together

    engines = [LesionGradient(network, subject.image, lesion, **recipe.heeded) for lesion in lesions]
    made = together(engines, subject.image)
    for n, values in tqdm(made, desc=recipe.method, unit="lesion", total=len(lesions), disable=not progress):
        yield n, engines[n].place(values), _told(engines[n].report)


def _told(report: Report | None) -> dict[str, Any]:
    """What a sidecar says of near and far fields, where a map was made by them."""
    return {} if report is None else {"fields": asdict(report)}


def _cost_of_gradients(subject: Subject, network: Network, lesions: Sequence[Lesion], recipe: Recipe) -> Cost:
    from ies_helpers.saliency.estimate import estimate_seconds
    from ies_helpers.saliency.farfield import check_accuracy
    from ies_helpers.saliency.smoothgrad import most_draws

    method = METHODS[recipe.method]
    draws = recipe.heeded.get("draws", method.settings.get("steps", 1))
    how: Any = {"aggregate": method.aggregate or recipe.aggregate, "statistics": recipe.statistics}
    how["accuracy"] = recipe.accuracy
    seconds, way = estimate_seconds(network, subject.image, lesions, **how, draws=most_draws(draws))
    if way == "fields":
        far = "left out" if recipe.statistics == "frozen" else f"to an error of {check_accuracy(recipe.accuracy):g}"
        way = f"near and far fields ({far}; accuracy exact takes every pass)"
    if "draws" in recipe.heeded:
        return Cost(seconds, f"{draws} draws by {way}", at_most=draws == "auto")
    count = draws * len(lesions)
    return Cost(seconds, f"{count} gradient{'s' if count > 1 else ''} by {way}")


# Weighted activations of one layer.


def _cam(subject: Subject, network: Network, recipe: Recipe) -> Callable[[Lesion], Any]:
    from ies_helpers.saliency import gradcam

    cam = {"gradcam": gradcam.gradcam, "gradcam++": gradcam.gradcam_pp}[recipe.method]
    return lambda lesion: (cam(network, subject.image, lesion), {})


# For comparison: attributions of the lesion's mean logit, by gradients or by edited images.


def _input_x_gradient(subject: Subject, network: Network, recipe: Recipe) -> Callable[[Lesion], Any]:
    from ies_helpers.saliency.comparison import input_x_gradient

    return lambda lesion: (input_x_gradient(network, subject.image, lesion), {})


def _integrated_gradients(subject: Subject, network: Network, recipe: Recipe) -> Callable[[Lesion], Any]:
    from ies_helpers.saliency.comparison import integrated_gradients

    how = _compared(subject, recipe)

    def attribute(lesion: Lesion) -> tuple[Saliency, dict[str, Any]]:
        found = integrated_gradients(network, subject.image, lesion, **how)
        return found.saliency, {"completeness": {"change": found.change, "error": found.error}}

    return attribute


def _occlusion(subject: Subject, network: Network, recipe: Recipe) -> Callable[[Lesion], Any]:
    from ies_helpers.saliency.comparison import occlusion

    how = _compared(subject, recipe)
    return lambda lesion: (occlusion(network, subject.image, lesion, **how), {})


def _kernel_shap(subject: Subject, network: Network, recipe: Recipe) -> Callable[[Lesion], Any]:
    from importlib.metadata import version

    from ies_helpers.saliency.comparison import kernel_shap

    how, notes = _compared(subject, recipe), {"captum": version("captum")}
    return lambda lesion: (kernel_shap(network, subject.image, lesion, **how, seed=recipe.seed), notes)


def _compared(subject: Subject, recipe: Recipe) -> dict[str, Any]:
    """What the function of a comparing method is given; the baseline's image is made once."""
    from ies_helpers.saliency.comparison import baseline_image

    baseline: Any = recipe.baseline
    return {"baseline": baseline_image(subject.image, baseline, subject.affine), **METHODS[recipe.method].settings}


def _check_captum(recipe: Recipe) -> None:
    from ies_helpers.saliency.comparison import captum_attr

    captum_attr()


def _cost_of_images(subject: Subject, network: Network, lesions: Sequence[Lesion], recipe: Recipe) -> Cost:
    from ies_helpers.saliency.comparison import blocks, zone_of
    from ies_helpers.saliency.estimate import estimate_scores
    from ies_helpers.saliency.score import LesionScore

    how = METHODS[recipe.method].settings
    scores = [LesionScore(network, subject.image, lesion) for lesion in lesions]

    def images(score: LesionScore) -> int:
        places = blocks(subject.shape, zone_of(score, how["reach"]), how["side"], how["stride"])
        return 1 + len(subject.image) * len(places)

    counts = [how.get("samples") or images(score) for score in scores]
    return Cost(estimate_scores(scores, counts), f"{sum(counts)} edited images")


METHODS: dict[str, Method] = {
    "smoothgrad": Method(
        _smoothgrad,
        GRADIENT_UNIT,
        ("aggregate", "draws", "noise", "seed", "statistics", "accuracy"),
        cost=_cost_of_gradients,
    ),
    "gradcam++": Method(one_by_one(_cam), CAM_UNIT, reads_layer=True),
    "gradcam": Method(one_by_one(_cam), CAM_UNIT, reads_layer=True),
    "gradient": Method(_gradient, GRADIENT_UNIT, ("aggregate", "statistics", "accuracy"), cost=_cost_of_gradients),
    "input-x-gradient": Method(
        one_by_one(_input_x_gradient),
        LOGIT,
        aggregate="mean",
        settings={"baseline": "zero"},
        cost=_cost_of_gradients,
    ),
    "integrated-gradients": Method(
        one_by_one(_integrated_gradients), LOGIT, ("baseline",), "mean", {"steps": 32}, cost=_cost_of_gradients
    ),
    "occlusion": Method(
        one_by_one(_occlusion),
        LOGIT,
        heeds=("baseline",),
        aggregate="mean",
        settings={"side": 5, "stride": 5, "reach": 15, "modalities": "each"},
        cost=_cost_of_images,
    ),
    "kernel-shap": Method(
        one_by_one(_kernel_shap),
        LOGIT,
        heeds=("baseline", "seed"),
        aggregate="mean",
        settings={"side": 10, "reach": 15, "samples": 1000},
        cost=_cost_of_images,
        check=_check_captum,
    ),
}
"""Every method that `explain` knows, by its name on the command line and in sidecars."""
