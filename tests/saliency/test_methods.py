"""Recipe and METHODS: a method is added in one place, and everything that asks for methods finds it."""

import inspect
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import torch

from ies_helpers import Network, explain, smoothgrad
from ies_helpers.__main__ import main
from ies_helpers.cohort import Workforce, list_tasks, plan_cohort, read_config, run_cohort
from ies_helpers.saliency.comparison import integrated_gradients, kernel_shap, occlusion
from ies_helpers.saliency.context import Fill
from ies_helpers.saliency.gradients import Aggregate, Statistics
from ies_helpers.saliency.methods import METHODS, Cost, Method, Recipe, methods_heeding, one_by_one
from ies_helpers.segmentation.architectures import build
from ies_helpers.segmentation.formats import load_network
from ies_helpers.segmentation.network import Through
from tests.patients import lesion_of, subject_in_memory, write_network, write_patient


def signed_spot(subject: Any, network: Any, recipe: Recipe) -> Any:
    """A method of a successor: minus one on the lesion, in every channel."""

    def attribute(lesion: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        saliency = torch.zeros(len(subject.image), *subject.shape)
        saliency[:, *torch.as_tensor(lesion.voxels).T] = -1.0
        return saliency, {"depth": 3}

    return attribute


def cost_of_spots(subject: Any, network: Any, lesions: Any, recipe: Recipe) -> Cost:
    return Cost(7200.0 * len(lesions), f"{len(lesions)} spots")


SPOT = Method(one_by_one(signed_spot), "spot", heeds=("seed",), settings={"depth": 3}, cost=cost_of_spots)


@pytest.fixture
def spot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one place in which a method is added."""
    monkeypatch.setitem(METHODS, "signed-spot", SPOT)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow network and a patient with a lesion that it finds."""
    home = tmp_path_factory.mktemp("home")
    write_network(home / "narrow.safetensors")
    write_patient(home / "a", "a", spots={"TP": (30, 40, 50)})
    return home


@pytest.mark.usefixtures("spot")
def test_an_added_method_is_found_by_the_command_line_the_sidecar_the_name_and_the_estimate(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [home / "a", "--network", home / "narrow.safetensors", "--out", tmp_path]
    assert main([str(a) for a in ["explain", *common, "--method", "signed-spot", "--seed", "4", "--draws", "9"]]) == 0
    assert "lesion voxels, 1 spots: about 2.0 h" in capsys.readouterr().out
    (path,) = tmp_path.rglob("*_desc-signedspotL001_T1w.json")
    sidecar = json.loads(path.read_text())
    used = {key: sidecar[key] for key in ("method", "unit", "seed", "settings", "depth", "minimum")}
    assert used == {
        **{"method": "signed-spot", "unit": "spot", "seed": 4, "settings": {"depth": 3}, "depth": 3, "minimum": -1.0}
    }
    assert [sidecar[key] for key in ("draws", "noise", "aggregate", "layer", "sigma")] == [None] * 5
    assert pd.read_csv(tmp_path / "maps.tsv", sep="\t")["method"].tolist() == ["signed-spot"] * 2
    assert main(["explain", "--method", "nothing"]) == 2
    assert "kernel-shap, signed-spot, got 'nothing'" in capsys.readouterr().err


@pytest.mark.usefixtures("spot")
def test_an_added_method_is_found_by_the_cohort_and_its_plan(home: Path) -> None:
    text = 'subjects = ["a"]\n[network]\nname = "narrow.safetensors"\n[[explain]]\nmethod = "signed-spot"\nseed = 1\n'
    (home / "cohort.toml").write_text(text)
    config = read_config(home / "cohort.toml")
    network = load_network(**config.network)
    plan = plan_cohort(config, network, *list_tasks(config, network), Workforce(1))
    assert (plan.maps, plan.seconds) == (2, pytest.approx(7200, rel=0.1))
    assert run_cohort(config, network, Workforce(1))["maps"].tolist() == [1 * 2]
    assert len(list(config.out.rglob("*_desc-signedspotL001_*.nii.gz"))) == 2
    (home / "cohort.toml").write_text(f"{text}[[explain]]\nmethod = 'signed-spot'\nseed = 2\n")
    with pytest.raises(ValueError, match="make signed-spot, with seed 1 and 2"):
        read_config(home / "cohort.toml")


@pytest.mark.usefixtures("spot")
def test_a_setting_that_a_method_does_not_heed_makes_no_other_map(tmp_path: Path, monkeypatch) -> None:
    subject = subject_in_memory()
    network, lesion = Network(build("unet", (2, 3)).module), lesion_of(subject.image[0].numpy() > 3.0)
    explain(subject, network, [lesion], tmp_path, method="signed-spot", draws=3)
    again = one_by_one(lambda *_: lambda lesion: pytest.fail("made again"))
    monkeypatch.setitem(METHODS, "signed-spot", replace(SPOT, run=again))
    explain(subject, network, [lesion], tmp_path, recipe=Recipe("signed-spot", draws=4, noise=0.5, baseline="mean"))
    with pytest.raises(ValueError, match="seed 0 instead of 1"):
        explain(subject, network, [lesion], tmp_path, recipe=Recipe("signed-spot"), seed=1)


# What is written twice says the same.


@pytest.mark.parametrize("function", [smoothgrad, integrated_gradients, occlusion, kernel_shap])
def test_functions_and_recipes_have_the_same_defaults(function: Any) -> None:
    method = METHODS[function.__name__.replace("_", "-")]
    recipe = {each.name: each.default for each in fields(Recipe) if each.name in method.heeds}
    given = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    given |= {"stride": given["side"]} if "stride" in given else {}
    assert {name: given[name] for name in (*recipe, *method.settings)} == recipe | dict(method.settings)


def test_words_of_a_setting_are_those_of_the_functions_types() -> None:
    words = {each.name: each.metadata["choices"] for each in fields(Recipe) if each.metadata["choices"]}
    kinds = {"aggregate": Aggregate, "through": Through, "statistics": Statistics, "baseline": Fill}
    assert words == {name: get_args(kind) for name, kind in kinds.items()}


def test_every_method_heeds_settings_that_there_are() -> None:
    names = {each.name for each in fields(Recipe)}
    assert all(set(method.heeds) <= names - {"method", "through"} for method in METHODS.values())
    assert methods_heeding("statistics") == ["smoothgrad", "gradient"]
    assert methods_heeding("nothing") == []
    assert all(each.metadata["help"] in (Recipe.__doc__ or "") for each in fields(Recipe))


# What a recipe refuses, before anything is loaded.


@pytest.mark.parametrize(
    ("settings", "met"),
    [
        ({"method": "lime"}, "'lime'"),
        ({"aggregate": "median"}, "'median'"),
        ({"through": "slices"}, "'slices'"),
        ({"statistics": "frzen"}, "'frzen'"),
        ({"baseline": "dark"}, "'dark'"),
        ({"draws": 0}, "got 0 "),
        ({"draws": "many"}, "'many'"),
        ({"noise": -0.1}, "-0.1"),
        ({"seed": -1}, "-1"),
        ({"statistics": "frozen", "aggregate": "mean"}, "smoothgrad with mean"),
        ({"statistics": "frozen", "method": "gradcam++"}, r"gradcam\+\+ with max"),
        ({"method": "input-x-gradient", "baseline": "mean"}, "'mean'"),
    ],
)
def test_a_recipe_that_cannot_work_does_not_exist(settings: dict[str, Any], met: str) -> None:
    with pytest.raises(ValueError, match=met):
        Recipe(**settings)


@pytest.mark.parametrize(
    ("recipe", "met"),
    [
        (Recipe(through="windows"), "windows"),
        (Recipe("gradcam++"), "None"),
        (Recipe(statistics="frozen"), "narrow"),
    ],
)
def test_a_recipe_says_what_a_network_cannot_before_any_map(recipe: Recipe, met: str) -> None:
    with pytest.raises(ValueError, match=met):
        recipe.view_of(Network(build("unet", (2, 3)).module, name="narrow"), 2)


def test_a_view_is_the_network_seen_as_the_recipe_says() -> None:
    network = Network(build("unet", (2, 3)).module, window=16)
    assert Recipe().view_of(network, 2) is network
    assert Recipe(through="windows").view_of(network, 2).through == "windows"


# The cost


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient and an edited image take a second each."""
    gradients = lambda *_, draws, aggregate, **__: (float(draws), aggregate)  # noqa: E731
    monkeypatch.setattr("ies_helpers.saliency.estimate.estimate_seconds", gradients)
    monkeypatch.setattr("ies_helpers.saliency.estimate.estimate_scores", lambda scores, images: float(sum(images)))


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    ("recipe", "cost"),
    [
        (Recipe(draws=30), (30.0, "30 draws by max", False)),
        (Recipe(draws="auto", aggregate="sum"), (200.0, "auto draws by sum", True)),
        (Recipe("gradient", draws=30), (1.0, "2 gradients by max", False)),
        (Recipe("input-x-gradient"), (1.0, "2 gradients by mean", False)),
        (Recipe("integrated-gradients"), (32.0, "64 gradients by mean", False)),
        (Recipe("kernel-shap"), (2000.0, "2000 edited images", False)),
        (Recipe("occlusion"), (34.0, "34 edited images", False)),  # 2 (1 + 2 * 2^3): the field ends within two blocks
        (Recipe("gradcam"), None),
    ],
)
def test_each_method_counts_its_gradients_or_images(recipe: Recipe, cost: Any) -> None:
    subject = subject_in_memory((16, 16, 64))
    network = Network(build("unet", (3, 4)).module, stride=(2, 2, 2))
    lesion = lesion_of(torch.arange(16 * 16 * 64).reshape(16, 16, 64).numpy() == 0)
    assert recipe.cost(subject, network, [lesion] * 2) == cost
