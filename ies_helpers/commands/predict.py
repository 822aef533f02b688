"""`ies predict`."""

from pathlib import Path

from ies_helpers.commands.options import (
    ArchitectureOption,
    DeviceOption,
    File,
    JsonOption,
    MergingOption,
    NetworkOption,
    Out,
    SubjectArgument,
    ThresholdOption,
    look,
    say,
)


def predict(
    subject: SubjectArgument = None,
    network: NetworkOption = "unet",
    out: Out = Path("ies-out"),
    flair: File = None,
    t1: File = None,
    target: File = None,
    architecture: ArchitectureOption = None,
    merging: MergingOption = None,
    threshold: ThresholdOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Segment a subject; write the probability, the numbered lesions and their table."""
    _, _, lesions = look(
        subject, network, out, flair, t1, target, architecture, merging, threshold, device, not as_json
    )
    table = lesions.table()
    say([repr(lesions), table.round(2).to_string(index=False), f"Written to {out}."], table, as_json)
