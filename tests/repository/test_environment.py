"""environment.yml and pyproject.toml ask for the same things."""

from __future__ import annotations

import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

EXTRAS = ("lab", "test", "dev", "lm-eval", "onnx", "serve")
#: Of the documentation site, which `make docs` alone installs.
DOCS = "docs"


def by_name(requirements) -> dict[str, str]:
    """{canonical name: range}; refuses a name that is given twice."""
    parsed = [Requirement(text) for text in requirements]
    ranges = {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in parsed}
    assert len(ranges) == len(parsed), f"a package is named twice in {sorted(r.name for r in parsed)}"
    return ranges


def load() -> tuple[dict, list]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    return project, environment


def test_every_dependency_and_range_agrees():
    project, environment = load()
    (pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    assert pip[-1] == "-e .", "the project itself comes last, when its dependencies are there"
    wanted = project["dependencies"] + [
        line for extra in (*EXTRAS, DOCS) for line in project["optional-dependencies"][extra]
    ]
    assert by_name(pip[:-1]) == by_name(wanted)


def test_python_agrees():
    project, environment = load()
    conda = by_name(entry for entry in environment if isinstance(entry, str))
    assert conda["python"] == project["requires-python"]
    assert "pip" in conda and "nodejs" in conda


def test_set_up_installs_the_same_extras():
    setup = (REPOSITORY / ".ci" / "setup").read_text()
    assert f"\nEXTRAS={','.join(EXTRAS)}\n" in setup
    assert f'-e ".[$EXTRAS,{DOCS}]"' in setup


def test_the_citation_is_of_this_version():
    project, _ = load()
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert all(author.keys() == {"name"} for author in citation["authors"]), "the project, and nobody by name"
