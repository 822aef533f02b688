"""One subject's lesions found and written: what every command and every cohort begins with."""

from pathlib import Path

from ies_helpers.segmentation.inference import check_window, predict
from ies_helpers.segmentation.lesions import Lesions, find_lesions
from ies_helpers.segmentation.networks import Network
from ies_helpers.subjects.saving import open_derivative, save_lesions, write_table
from ies_helpers.subjects.subject import Subject


def segment(subject: Subject, network: Network, out: Path, *, progress: bool = False) -> Lesions:
    """Predict, number the lesions, and write the probability, the numbered groups and their table.

    Args:
        subject, network: what to segment, and with what; the network's threshold says what a lesion is.
        out: a folder, made a BIDS derivative.
        progress: show a bar over windows.

    Raises:
        ValueError: for an image smaller than a window, or a folder that holds maps of other lesions of this subject.
        OSError: if `out` cannot be written, before the prediction starts.
    """
    check_window(network, subject.shape)
    open_derivative(out)
    probability = predict(network, subject.image, progress=progress)
    lesions = find_lesions(probability, subject.target, threshold=network.threshold, affine=subject.affine)
    groups = {lesion.group for lesion in lesions}
    save_lesions(out, subject, probability, {g: lesions.label_map(subject.shape, g) for g in groups})
    write_table(out / f"sub-{subject.name}" / "lesions.tsv", lesions.table())
    return lesions
