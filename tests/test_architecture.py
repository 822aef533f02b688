"""The house stands: floors, rooms and their tests, docstrings, public names, and what lies at the top of it all."""

import ast
import graphlib
import importlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ies_helpers"

FLOORS = (
    "arrays",
    "subjects",
    "segmentation",
    "saliency",
    "measures",
    "figures",
    "teaching",
    "cohort",
    "doctor",
    "cli",
    "__main__",
)
PUBLIC = (
    *("load_subject", "phantom", "Subject", "fetch", "add_lesion", "remove_lesion"),
    *(
        "load_network",
        "Network",
        "prepare",
        "predict",
        "predict_logits",
        "find_lesions",
        "Lesion",
        "Lesions",
        "true_negatives",
    ),
    *("one_class", "gradient", "smoothgrad", "smoothgrad_average", "gradcam", "gradcam_pp", "explain"),
    *("perilesional_curve", "dose_response", "dose_to_flip", "input_x_gradient", "integrated_gradients"),
    *("occlusion", "kernel_shap"),
    *("proportional_energy", "average_saliency_focus", "pointing_game", "peak", "map_features"),
    *("road", "insertion", "deletion", "faithfulness_correlation", "randomise_layers"),
    *("structure_table", "read_structures", "group_map"),
    *("compare_groups", "group_table", "roc", "predict_false", "refine"),
    *(
        "members_of",
        "member_probabilities",
        "lesion_uncertainty",
        "patient_uncertainty",
        "retention_curve",
        "map_spread",
    ),
    "summarise_curves",
    *(
        "plot_slice",
        "plot_lesions",
        "plot_saliency",
        "plot_maps",
        "plot_groups",
        "plot_retention",
        "plot_dose",
        "plot_perilesional",
    ),
    *("saliency_html", "view", "view_3d", "report", "save_map"),
)
TOP = {
    *("ies_helpers", "notebooks", "data", "tests", ".ci", ".github"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "Makefile"),
    *("pyproject.toml", "constraints.txt", "environment.yml"),
    *(".gitignore", ".gitattributes", ".pre-commit-config.yaml"),
}
FUNCTION_LINES = 45  # without the docstring
MOST_ROOMS = 60
"""48; any network: weights, formats, bundles, adapters, grid; any folder and mask: layouts, targets; what a map
is good for: uncertainty, features, refine, report; whether an installation is sound: doctor."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    """`.../ies_helpers/subjects/phantom.py` -> `ies_helpers.subjects.phantom`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
PARTS = sorted(set(MODULES) - {"ies_helpers"})
ROOMS = [m for m in PARTS if not (PACKAGE / m.removeprefix("ies_helpers.")).is_dir()]
each_module = pytest.mark.parametrize("module", sorted(MODULES))

TESTS = ROOT / "tests"
CROSSING = {
    *("architecture", "imports", "project", "notebooks", "book", "colab", "workshop"),
    *("cheat_sheet", "yardstick"),  # what stands around the package
    *(
        "channels",
        "doors",
        "finished",
        "faults",
        "faults_random",
        "hypothesis",
        "bench",
    ),  # whole, in all weathers
    *("segmentation/published", "saliency/devices", "figures/legibility"),  # one promise of several rooms
}
"""Test files that belong to no one module, by floor and name."""


def floor(module: str) -> int:
    """How far down the house a module stands."""
    return FLOORS.index(module.split(".")[1])


def imports(tree: ast.Module) -> Iterator[str]:
    """Modules of the package that a module imports, anywhere in its text; `.` for a relative import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "ies_helpers")
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "."
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ies_helpers":
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else str(node.module) for name in inner)


def private_names(tree: ast.Module) -> list[str]:
    """Names with an underscore in front that are imported from the package."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    ours = (node for node in found if (node.module or "").split(".")[0] == "ies_helpers")
    return [alias.name for node in ours for alias in node.names if alias.name.startswith("_")]


def code_lines(function: Function) -> int:
    """Lines of a function, decorators aside, without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    return lines - ((function.body[0].end_lineno or 0) - function.body[0].lineno + 1)


def test_every_module_stands_on_a_known_floor() -> None:
    assert [m for m in PARTS if m.split(".")[1] not in FLOORS] == []


@pytest.mark.parametrize("module", PARTS)
def test_a_module_imports_only_from_floors_above_it_or_its_own(module: str) -> None:
    found = set(imports(MODULES[module]))
    assert "." not in found, "write absolute imports"
    assert "ies_helpers" not in found, "name the module, not the package"
    assert sorted(name for name in found if floor(name) > floor(module)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {m: {name for name in imports(MODULES[m]) if name in MODULES} for m in PARTS}
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= set(PARTS)


@each_module
def test_no_module_reaches_for_anothers_private_names(module: str) -> None:
    assert [name for name in private_names(MODULES[module]) if name != "__version__"] == []


@pytest.mark.parametrize("chapter", sorted((ROOT / "notebooks" / "src").glob("*.py")), ids=lambda path: path.stem)
def test_no_chapter_reaches_for_private_names(chapter: Path) -> None:
    assert private_names(ast.parse(chapter.read_text(encoding="utf-8"))) == []


def test_the_rooms_can_be_drawn_from_memory() -> None:
    """Each is one idea, however long; another one is added here with its reason."""
    assert len(ROOMS) <= MOST_ROOMS


def test_every_module_has_its_test_file_and_every_test_file_its_module() -> None:
    files = {str(p.relative_to(TESTS).with_name(p.stem.removeprefix("test_"))) for p in TESTS.rglob("test_*.py")}
    tested = {name for name in files if not name.startswith(("browser/", "bench/"))} - CROSSING
    rooms = {m.removeprefix("ies_helpers.").replace(".", "/") for m in ROOMS} - {"__main__"}  # tested as cli
    assert sorted(rooms - tested) == [], "a module without its test file"
    assert sorted(tested - rooms) == [], "a test file without its module"


@each_module
def test_a_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(MODULES[module]), "a module opens with a docstring"


@each_module
def test_a_function_fits_a_screen(module: str) -> None:
    functions = [node for node in ast.walk(MODULES[module]) if isinstance(node, Function)]
    assert {f.name: code_lines(f) for f in functions if code_lines(f) > FUNCTION_LINES} == {}


@each_module
def test_public_functions_and_classes_have_docstrings(module: str) -> None:
    named = [node for node in MODULES[module].body if isinstance(node, Function | ast.ClassDef)]
    assert [n.name for n in named if not n.name.startswith("_") and not ast.get_docstring(n)] == []


@pytest.mark.parametrize("module", [m for m in PARTS if floor(m) < FLOORS.index("cli")])
def test_only_the_command_line_prints(module: str) -> None:
    calls = [node for node in ast.walk(MODULES[module]) if isinstance(node, ast.Call)]
    assert [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"] == []


def test_public_names_can_be_imported_and_stand_in_reading_order() -> None:
    package = importlib.import_module("ies_helpers")
    names = [name for name in package.__all__ if not name.startswith("__")]
    assert names, "the package hands out its public names"
    assert names == [name for name in PUBLIC if name in names]
    assert [name for name in names if not hasattr(package, name)] == []


def test_the_top_of_the_repository_holds_only_what_belongs_there() -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    git = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("needs a git checkout")
    assert {Path(name).parts[0] for name in git.stdout.split("\0") if name} - TOP == set()
