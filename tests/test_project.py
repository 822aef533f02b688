"""The files around the code agree with each other and speak of the project alone."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ies_helpers.__main__ import app

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TARGETS = ("demo", "test", "lint", "lab", "notebooks", "book", "browser", "workshop", "bench", "bench-gpu", "yardstick")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").iterdir())

# The hosts are put together here, so that this file does not hold what it looks for.
HOSTS = [name + ".org" for name in ("pypi", "python" + "hosted", "anaconda")]
FORBIDDEN = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work|farm)/\w|" + "|".join(map(re.escape, HOSTS)))


def lines_of(name: str) -> list[str]:
    """Lines of a file that say something."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line]


PINS = {canonicalize_name(r.name): r for r in map(Requirement, lines_of("constraints.txt"))}
WANTED = [Requirement(text) for text in sum(EXTRAS.values(), PROJECT["dependencies"])]


def tracked() -> list[Path]:
    """Files of the repository, those about to be added included."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    git = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("needs a git checkout")
    return [path for name in git.stdout.split("\0") if (path := ROOT / name).is_file()]


def test_conda_creates_python_and_pip_installs_the_package() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, *others = environment["dependencies"]
    assert environment["name"] == "ies"
    assert environment["channels"] == ["conda-forge"]
    assert python.split(",")[0] == f"python{PROJECT['requires-python']}"
    assert others == ["pip", {"pip": ["-c constraints.txt", "-e .[notebooks]"]}]
    assert "notebooks" in EXTRAS


@pytest.mark.parametrize("wanted", WANTED, ids=lambda r: r.name)
def test_the_tested_versions_cover_every_dependency_and_meet_its_bounds(wanted: Requirement) -> None:
    (pin,) = PINS[canonicalize_name(wanted.name)].specifier
    assert pin.operator == "=="
    assert wanted.specifier.contains(pin.version)


def test_constraints_are_plain_pins_that_any_index_can_serve() -> None:
    assert [line for line in lines_of("constraints.txt") if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert "ies-helpers" not in PINS


def test_core_dependencies_have_lower_bounds_only() -> None:
    operators = {s.operator for text in PROJECT["dependencies"] for s in Requirement(text).specifier}
    assert operators == {">="}


def test_make_help_tells_every_target_in_one_line() -> None:
    told = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"^ +make ([\w-]+) +\S.+$", told, flags=re.MULTILINE)
    phony = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony is not None
    assert sorted(named) == sorted(phony[1].split()) == sorted(["help", *TARGETS])


def test_documented_make_targets_exist() -> None:
    pages = [p for p in tracked() if p.suffix in {".md", ".py", ".yml", ".toml"}]
    named = {t for p in pages for t in re.findall(r"`make ([a-z-]+)", p.read_text(encoding="utf-8"))}
    assert named - {"help", *TARGETS} == set()


def test_the_citation_names_our_software_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["title"] == "IES handbook"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == [{"name": "The IES handbook contributors"}]
    (paper,) = [r for r in citation["references"] if r["doi"] == "10.1038/s41598-026-36560-9"]
    assert [a["family-names"] for a in paper["authors"]][::7] == ["Spagnolo", "Depeursinge"]


def test_the_version_stands_in_the_changelog() -> None:
    assert re.search(rf"^## .*{re.escape(PROJECT['version'])}", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_wants_and_asks_in_fields_of_their_own(form: Path) -> None:
    asked = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(asked)
    fields = [field for field in asked["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert len({field["id"] for field in fields}) == len(fields)
    assert len({field["attributes"]["label"] for field in fields}) == len(fields)


def test_a_bug_comes_with_what_ies_doctor_says_and_a_page_with_its_chapter() -> None:
    forms = {path.stem: path for path in FORMS}
    body = {name: yaml.safe_load(path.read_text(encoding="utf-8"))["body"] for name, path in forms.items()}
    required = {n: {f.get("id") for f in b if f.get("validations", {}).get("required")} for n, b in body.items()}
    assert required == {"bug": {"did", "happened", "expected", "doctor"}, "page": {"chapter", "says", "should-say"}}
    assert "`ies doctor`" in forms["bug"].read_text(encoding="utf-8")
    assert "doctor" in {info.callback.__name__ for info in app.registered_commands if info.callback}


def test_the_workflow_runs_what_every_machine_runs_on_the_tested_python() -> None:
    (path,) = (ROOT / ".github" / "workflows").iterdir()
    (job,) = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    assert PROJECT["requires-python"] == f">={python}"


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match}" for match in FORBIDDEN.findall(text)]
    assert found == []
