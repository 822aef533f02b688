"""What a cohort run will make and take, judged by one of its subjects, before it begins."""

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ies_helpers.cohort.config import Config
from ies_helpers.cohort.run import Crew
from ies_helpers.cohort.work import Task, chosen_of, torch_threads
from ies_helpers.saliency.comparison import OTHERS, estimate_other
from ies_helpers.saliency.estimate import estimate_seconds, in_words
from ies_helpers.saliency.gradcam import gradcam, gradcam_pp
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.saliency.perilesional import STEPS, perilesional_curve
from ies_helpers.segmentation.inference import predict
from ies_helpers.segmentation.lesions import Lesion, Lesions, find_lesions
from ies_helpers.segmentation.networks import Network
from ies_helpers.subjects.loading import load_subject
from ies_helpers.subjects.subject import Subject


@dataclass(frozen=True)
class Plan:
    """What is left to do for the subjects that are `waiting`, if all are like the pilot.

    Attributes:
        waiting, kept, failed: subjects left to do, done by an earlier run, and not to be found.
        crew: who does it.
        pilot: the subject that was looked at; empty if none could be.
        maps: files, one for each lesion, setting and modality.
        curves: perilesional ones.
        seconds: of one process.
        gigabytes: of the maps on disk.
        why: for each that cannot be found, or could not be a pilot, a sentence.
    """

    waiting: int
    kept: int
    failed: int
    crew: Crew
    pilot: str = ""
    maps: int = 0
    curves: int = 0
    seconds: float = 0.0
    gigabytes: float = 0.0
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        subjects = "1 subject" if self.waiting == 1 else f"{self.waiting} subjects"
        lines = [f"{subjects} to do, {self.kept} done before, {self.failed} not to be found."]
        if self.pilot:
            made = f"{self.maps} maps" + (f" and {self.curves} perilesional curves" if self.curves else "")
            lines.append(
                f"If all are like {self.pilot}: {made}, {self.gigabytes:.2g} GB on disk, "
                f"about {in_words(self.seconds / (self.crew.workers or 1))} with {self.crew}."
            )
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self.why)])

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"crew": str(self.crew)}


def plan(config: Config, network: Network, tasks: Sequence[Task], rows: dict[str, dict[str, Any]], crew: Crew) -> Plan:
    """Load and predict the first subject that can be, time a little of its work, and count for all; writes nothing."""
    status = [row["status"] for row in rows.values()]
    why = [f"{row['subject']}: {row['why']}" for row in rows.values() if row["status"] == "failed"]
    count = {"waiting": len(tasks), "kept": status.count("kept"), "failed": len(why), "crew": crew}
    for task in tasks[:3]:
        try:
            with torch_threads(config.threads):
                found = _piloted(config, network, task)
        except (ValueError, OSError) as error:
            why.append(f"{task.name}: {error}")  # it will be told again when its turn comes
            continue
        scaled = {key: value * len(tasks) for key, value in found.items()}
        return Plan(**count, pilot=task.name, why=tuple(why), **scaled)
    return Plan(**count, why=tuple(why))


def _piloted(config: Config, network: Network, task: Task) -> dict[str, Any]:
    """Maps, curves, seconds and gigabytes of one subject."""
    begun = time.perf_counter()
    subject = load_subject(**task.source)
    probability = predict(network, subject.image)
    lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
    found = {"maps": 0, "curves": 0, "seconds": time.perf_counter() - begun, "gigabytes": 0.0}
    for settings in config.explain:
        chosen = chosen_of(lesions, settings["lesions"], [])
        net = network.explained_through(settings["through"]) if settings["through"] else network
        if chosen:
            files, seconds, size = _maps(subject, net, chosen, settings)
            found["maps"] += files
            found["seconds"] += seconds
            found["gigabytes"] += size / 1e9
    for settings in config.perilesional:
        found["curves"] += len(chosen_of(lesions, settings["lesions"], []))
    found["seconds"] += found["curves"] * _seconds_of_a_curve(subject, network, lesions)
    return found


def _maps(
    subject: Subject, network: Network, lesions: Sequence[Lesion], settings: dict[str, Any]
) -> tuple[int, float, float]:
    """Files, seconds and bytes of the maps of one setting; the size is that of the middle lesion's map."""
    middle = sorted(lesions, key=len)[len(lesions) // 2]
    method, cams = settings["method"], {"gradcam": gradcam, "gradcam++": gradcam_pp}
    if method in cams:
        saliency, once = _timed(lambda: cams[method](network, subject.image, middle))
        seconds = once * len(lesions)
    else:
        engine = LesionGradient(network, subject.image, middle, "mean")
        saliency = engine.place(engine(subject.image))
        seconds = _seconds(subject, network, lesions, settings)
    size = sum(len(zlib.compress(channel.numpy().tobytes(), 1)) for channel in saliency)
    return len(lesions) * len(saliency), seconds, len(lesions) * float(size)


def _seconds(subject: Subject, network: Network, lesions: Sequence[Lesion], settings: dict[str, Any]) -> float:
    """Of all draws, or edited images, of all lesions."""
    method = settings["method"]
    if method in OTHERS:
        return estimate_other(network, subject.image, lesions, method)[0]
    draws = settings["draws"] if method == "smoothgrad" else 1
    how = {"aggregate": settings["aggregate"], "draws": draws, "statistics": settings["statistics"]}
    return estimate_seconds(network, subject.image, lesions, **how)[0]


def _seconds_of_a_curve(subject: Subject, network: Network, lesions: Lesions) -> float:
    """From one distance of the first lesion, which with the full score is two passes."""
    if not len(lesions):
        return 0.0
    _, seconds = _timed(lambda: perilesional_curve(network, subject.image, lesions[1], distances=[STEPS[-1]]))
    return seconds * (len(STEPS) + 1) / 2


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    made = run()
    return made, time.perf_counter() - begun
