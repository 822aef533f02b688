"""Images of one channel and of three, classes beyond the second: through every command, equal to the plain loops."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from safetensors.torch import save_file

from ies_helpers import Network, Subject, explain, gradient, load_network, load_subject, predict
from ies_helpers.__main__ import main
from ies_helpers.figures import pages
from ies_helpers.saliency.gradients import LesionGradient
from ies_helpers.segmentation.architectures import build
from ies_helpers.segmentation.network import one_class
from ies_helpers.subjects.subject import channel
from tests import networks, oracles
from tests.patients import ball, subject_in_memory, write_network, write_patient

ROUNDING = 1e-4
"""Float32 against float32 in another order, relative to the largest value."""

NOISE = 0.05
SEED = 3


@dataclass
class Place:
    """A patient on disk, a network's file, and the folder where `ies explain` put its maps."""

    channels: tuple[str, ...]
    patient: Path
    network: Path
    out: Path

    @property
    def files(self) -> dict[str, Path]:
        """The scan of each channel."""
        return {name: self.patient / f"sub-p1_{channel(name).suffix}.nii.gz" for name in self.channels}

    @property
    def by_name(self) -> list[object]:
        """The patient on a command line, its channels in the network's order."""
        return [*images_of(self.files), "--target", self.patient / "sub-p1_label-lesion_mask.nii.gz"]


def images_of(files: dict[str, Path]) -> list[object]:
    """`--image NAME=FILE` for each."""
    return [word for name, path in files.items() for word in ("--image", f"{name}={path}")]


def ies(*arguments: object) -> int:
    """The exit code of a command line."""
    return main([str(argument) for argument in arguments])


def explained(place: Place, subject: Sequence[object], out: Path) -> int:
    """The exit code of `ies explain` of the one found lesion by the exact maximum of two noisy draws."""
    how = ["--lesions", "1", "--aggregate", "max", "--draws", 2, "--noise", NOISE, "--seed", SEED]
    return ies("explain", *subject, "--network", place.network, *how, "--out", out)


def map_of(place: Place, name: str, out: Path | None = None) -> Path:
    """The file of lesion 1's map in one channel."""
    return (out or place.out) / "sub-p1" / "anat" / f"sub-p1_desc-smoothgradmaxL001_{channel(name).suffix}.nii.gz"


def values_of(path: Path) -> np.ndarray:
    """What a NIfTI file holds."""
    return np.asanyarray(nibabel.load(path).dataobj)


LONE, THREE = ("flair",), ("dir", "flair", "t1")


@pytest.fixture(scope="module", params=[LONE, THREE], ids=", ".join)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A network that takes these channels, a patient that has them, and the maps of its first lesion."""
    folder, names = tmp_path_factory.mktemp("place"), request.param
    bright_first = sorted(names, key=lambda name: name != "flair")
    suffixes = [channel(name).suffix for name in bright_first]
    patient = write_patient(folder / "patient", spots={"TP": (30, 40, 50)}, radius=1.6, suffixes=suffixes)
    network = write_network(folder / "narrow.safetensors", channels=names)
    made = Place(names, patient, network, folder / "out")
    assert explained(made, made.by_name, made.out) == 0
    return made


def voxels_of(place: Place) -> np.ndarray:
    """Of lesion 1."""
    labels = values_of(place.out / "sub-p1" / "anat" / "sub-p1_desc-tp_dseg.nii.gz")
    return np.argwhere(labels == 1)


def loaded(place: Place) -> tuple[Subject, Network]:
    """The subject and the network, in this process."""
    return load_subject(images=place.files), load_network(place.network, device="cpu")


def test_maps_are_those_of_the_plain_loop(place: Place) -> None:
    """Unnormalised; the noise is a share of the range of FLAIR, wherever it stands."""
    subject, network = loaded(place)
    voxels, reference = voxels_of(place), place.channels.index("flair")
    assert len(voxels) > 5
    logits = oracles.whole(network)
    wanted = oracles.smoothgrad(logits, subject.image, voxels, "max", 2, NOISE, SEED, reference)
    got = np.stack([values_of(map_of(place, name)) for name in place.channels])
    assert oracles.relative(torch.from_numpy(got), wanted) < ROUNDING
    assert got[reference].max() > 0.01  # and not two maps of zeros


def test_sidecars_and_index_name_the_channels(place: Place) -> None:
    sidecars = [map_of(place, name).with_name(map_of(place, name).name[:-7] + ".json") for name in place.channels]
    assert [json.loads(path.read_text())["modality"] for path in sidecars] == list(place.channels)
    index = pd.read_csv(place.out / "maps.tsv", sep="\t")
    assert sorted(index["modality"]) == sorted(place.channels)
    assert {str(place.out / path) for path in index["path"]} == {str(map_of(place, name)) for name in place.channels}


def test_evaluate_measures_each_channel(place: Place, tmp_path: Path) -> None:
    assert ies("evaluate", place.out, "--out", tmp_path) == 0
    table = pd.read_csv(tmp_path / "measures.csv").set_index("measure")["value"]
    maps = {name: values_of(map_of(place, name)).astype(np.float64) for name in place.channels}
    total = sum(np.abs(values).sum() for values in maps.values())
    for name, values in maps.items():
        assert table[f"{name}_max"] == pytest.approx(values.max(), rel=1e-5)
        assert table[f"{name}_min"] == pytest.approx(values.min(), rel=1e-5)
        assert table[f"{name}_share"] == pytest.approx(np.abs(values).sum() / total, rel=1e-5)
    assert len([name for name in table.index if name.endswith("_max")]) == len(maps)


def test_view_draws_each_channel(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: dict[str, str] = {}
    save = pages.save_figure

    def heard(figure: Figure, path: Path, *rest: object, **more: object) -> object:
        texts[path.stem] = " ".join(text.get_text() for text in figure.findobj(Text))
        return save(figure, path, *rest, **more)

    monkeypatch.setattr(pages, "save_figure", heard)
    assert ies("view", place.out) == 0
    drawn = texts["sub-p1_desc-smoothgradmaxL001"]
    assert [name for name in place.channels if channel(name).label not in drawn] == []
    assert (place.out / "figures" / "index.html").is_file()


def test_perilesional_scores_are_those_of_the_plain_loop(place: Place, tmp_path: Path) -> None:
    how = ["--lesions", "1", "--network", place.network, "--out", tmp_path]
    assert ies("perilesional", *place.by_name, *how) == 0
    table = pd.read_csv(tmp_path / "perilesional.csv")
    subject, network = loaded(place)
    voxels = voxels_of(place)
    mask = torch.zeros(subject.shape, dtype=torch.bool)
    mask[tuple(voxels.T)] = True
    alone = oracles.lesion_probabilities(network, subject.image * mask, voxels).mean()
    scores = table.sort_values("distance_mm")["score"].to_numpy()
    assert scores[0] == pytest.approx(float(alone), abs=ROUNDING)
    everything = predict(network, subject.image)[mask].mean()
    assert scores[-1] == pytest.approx(float(everything), abs=0.05)  # 34 voxels of tissue are not all


def test_a_cohort_makes_the_same_bits(place: Place, tmp_path: Path) -> None:
    files = "".join(f', {name} = "{path}"' for name, path in place.files.items())
    target = place.patient / "sub-p1_label-lesion_mask.nii.gz"
    (tmp_path / "cohort.toml").write_text(
        f'subjects = [{{target = "{target}"{files}}}]\nout = "out"\n'
        f'[network]\nname = "{place.network}"\ndevice = "cpu"\n'
        f'[[explain]]\nlesions = "1"\naggregate = "max"\ndraws = 2\nnoise = {NOISE}\nseed = {SEED}\n[evaluate]\n'
    )
    assert ies("cohort", tmp_path / "cohort.toml") == 0
    for name in place.channels:
        assert np.array_equal(values_of(map_of(place, name, tmp_path / "out")), values_of(map_of(place, name)))


@pytest.mark.parametrize("place", [THREE], indirect=True, ids=", ".join)
def test_channels_in_another_order_are_put_in_the_networks(place: Place, tmp_path: Path, capfd) -> None:
    """By name, and it is said; the maps are the same to the bit."""
    turned = dict(reversed(place.files.items()))
    target = ["--target", place.patient / "sub-p1_label-lesion_mask.nii.gz"]
    assert explained(place, [*images_of(turned), *target], tmp_path) == 0
    said = capfd.readouterr().err
    assert ", ".join(place.channels) in said
    assert ", ".join(turned) in said
    for name in place.channels:
        assert np.array_equal(values_of(map_of(place, name, tmp_path)), values_of(map_of(place, name)))


def test_a_folder_gives_a_network_the_channels_that_it_takes(tmp_path: Path) -> None:
    """Of the three in the folder FLAIR alone, as if there were no others."""
    patient = write_patient(tmp_path / "p", spots={"TP": (30, 40, 50)}, radius=1.6, suffixes=("FLAIR", "T1w", "T2w"))
    network = write_network(tmp_path / "lone.safetensors", channels=("flair",))
    place = Place(("flair",), patient, network, tmp_path / "all")
    assert explained(place, [patient], place.out) == 0
    assert explained(place, place.by_name, tmp_path / "one") == 0
    assert np.array_equal(values_of(map_of(place, "flair")), values_of(map_of(place, "flair", tmp_path / "one")))
    assert not map_of(place, "t1").exists()


def test_a_patient_without_flair_goes_all_the_way(tmp_path: Path) -> None:
    """The noise is a share of the range of the first channel then."""
    patient = write_patient(tmp_path / "p", spots={"TP": (30, 40, 50)}, radius=1.6, suffixes=("T2w",))
    place = Place(("t2",), patient, write_network(tmp_path / "n.safetensors", channels=("t2",)), tmp_path / "out")
    assert explained(place, [patient], place.out) == 0
    subject, network = loaded(place)
    wanted = oracles.smoothgrad(oracles.whole(network), subject.image, voxels_of(place), "max", 2, NOISE, SEED)
    got = values_of(map_of(place, "t2"))
    assert oracles.relative(torch.from_numpy(got)[None], wanted) < ROUNDING
    assert ies("evaluate", place.out, "--out", tmp_path / "e") == 0
    table = pd.read_csv(tmp_path / "e" / "measures.csv").set_index("measure")["value"]
    assert table["t2_max"] == pytest.approx(got.max(), rel=1e-5)
    assert ies("view", place.out) == 0
    assert (place.out / "figures" / "sub-p1_desc-smoothgradmaxL001.png").is_file()


# What is refused.


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr."""
    told = capsys.readouterr().err
    assert told.startswith("ies: ")
    assert told.count("\n") == 1
    return told


def test_a_channel_named_twice_is_refused(place: Place, tmp_path: Path, capsys) -> None:
    again = ["--image", f"flair={place.files['flair']}"]
    assert explained(place, [*place.by_name, *again], tmp_path / "out") == 2
    assert "flair" in refusal(capsys)
    assert ies("predict", *again, "--flair", place.files["flair"], "--out", tmp_path / "out") == 2
    assert "flair" in refusal(capsys)
    with pytest.raises(ValueError, match="flair"):
        Subject("twice", torch.zeros(2, 4, 4, 4), np.eye(4), ("flair", "flair"))
    assert not (tmp_path / "out").exists()


def test_a_network_that_wants_a_channel_which_is_not_there_says_which_are(tmp_path: Path, capsys) -> None:
    patient = write_patient(tmp_path / "p", spots={}, suffixes=("FLAIR", "T1w"))
    network = write_network(tmp_path / "n.safetensors", channels=("t2", "flair"))
    assert ies("explain", patient, "--network", network, "--out", tmp_path / "out") == 2
    said = refusal(capsys)
    assert "flair, t1" in said
    assert "lacks t2" in said


# Classes beyond the second.


@pytest.fixture
def three_classes() -> Network:
    """A lively U-Net of three classes and three channels, in float64."""
    torch.manual_seed(0)
    built = build("unet", (3, 4, 5, 6), in_channels=3, out_channels=3)
    return networks.lively(built)


def test_the_third_class_is_explained_by_the_cone_and_equals_the_plain_loop(three_classes: Network) -> None:
    network = one_class(three_classes, 2)
    subject = subject_in_memory((32, 32, 32))
    image = torch.cat([subject.image, subject.image[:1].flip(1)]).double()
    voxels = np.argwhere(ball((32, 32, 32), (14, 17, 12), 1.2))
    assert LesionGradient(network, image, voxels, "max").way == "cone"
    for how in ("max", "mean"):
        wanted = oracles.aggregate(oracles.voxel_gradients(oracles.whole(network), image, voxels), how)
        assert oracles.relative(gradient(network, image, voxels, aggregate=how), wanted) < 1e-6
        other = gradient(three_classes, image, voxels, aggregate=how)
        assert oracles.relative(other, wanted) > 0.1, "class 1 is another question"


def test_a_class_beyond_the_head_is_refused(three_classes: Network, tmp_path: Path) -> None:
    subject = subject_in_memory((32, 32, 32))
    image = torch.cat([subject.image, subject.image[:1]]).double()
    with pytest.raises(ValueError, match=r"3 classes .* 3"):
        gradient(one_class(three_classes, 3), image, np.array([[9, 9, 9]]))
    lesion = [np.array([[9, 9, 9]])]
    with pytest.raises(ValueError, match=r"\b7\b"):
        explain(
            Subject("three", image.float(), np.eye(4), ("a", "b", "c")),
            Network(three_classes.module.float(), lesion_class=7),
            lesion,
            tmp_path / "out",
            method="gradient",
        )


def test_a_file_of_three_classes_is_read_with_all_of_them(tmp_path: Path) -> None:
    module = build("unet", (2, 3, 4), in_channels=1, out_channels=3).module
    state = {key: value for key, value in module.state_dict().items() if value.is_floating_point()}
    save_file(state, tmp_path / "three.safetensors", metadata={"architecture": "unet", "inputs": "flair"})
    network = load_network(tmp_path / "three.safetensors", device="cpu")
    assert network.channels == ("flair",)
    assert network.logits(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)
