"""What is in git, and what would be in a wheel."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.conftest import REPOSITORY

PACKAGES = ("workbench", "wgsl_kernels", "eval")
LARGEST = 20_000_000
HOME_PATHS = re.compile(rb"(?<![\w.:/-])/(?:(?:home|Users)/[\w.-]+|root|work)/|\b[A-Z]:\\+Users\\")
REGISTRY_HOSTS = re.compile(
    r"pypi\.(?:org|python)|pythonhosted|npmjs|(?:download|whl)\.pytorch", re.IGNORECASE
)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files in git, relative to the repository; skips in an unpacked archive."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"not a git checkout: {done.stderr.decode().strip()}")
    names = [Path(name.decode()) for name in done.stdout.split(b"\0") if name]
    return [name for name in names if (REPOSITORY / name).is_file()]


def test_no_large_files(tracked):
    large = {str(path): (REPOSITORY / path).stat().st_size for path in tracked}
    assert {name: size for name, size in large.items() if size > LARGEST} == {}


def test_no_paths_of_a_developer_machine(tracked):
    found = []
    for path in tracked:
        data = (REPOSITORY / path).read_bytes()
        if b"\0" in data[:8192]:
            continue
        found += [f"{path}: {match.group().decode()}" for match in HOME_PATHS.finditer(data)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "folder"),  # apart, since this file is searched too
    [("at /{}/jo/x", "home"), ('"/{}/x"', "root"), ("C:\\{}\\jo", "Users"), ("(/{}/jo/x)", "Users")],
)
def test_the_pattern_knows_such_paths(text, folder):
    assert HOME_PATHS.search(text.format(folder).encode())


@pytest.mark.parametrize(
    "text", [b"https://github.com/root/x", b"some/work/x", b"tree/root/x", b"/usr/bin/env"]
)
def test_the_pattern_leaves_others(text):
    assert not HOME_PATHS.search(text)


def test_set_up_names_no_registry(tracked):
    """Packages come from wherever this machine's pip, npm and apt are told to take them from."""
    suffixes = {".toml", ".yml", ".yaml", ".json"}
    setup = [p for p in tracked if p.parts[0] not in PACKAGES and p.suffix in suffixes]
    setup += [Path("Makefile"), Path(".ci/setup"), Path(".ci/run")]
    found = [
        str(path) for path in setup if REGISTRY_HOSTS.search((REPOSITORY / path).read_text(errors="replace"))
    ]
    assert found == []


def test_npm_packages_are_pinned_by_hash():
    folder = REPOSITORY / "tests" / "support"
    packages = json.loads((folder / "package-lock.json").read_text())["packages"]
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    assert packages[""]["dependencies"] == wanted
    for name, package in packages.items():
        assert "resolved" not in package, f"{name} names a registry"
        assert name == "" or package["integrity"].startswith("sha512-")


def test_every_package_folder_has_an_init(tracked):
    present = set(tracked)
    folders = {parent for path in tracked if path.suffix == ".py" for parent in path.parents[:-1]}
    roots = (*PACKAGES, "tests")
    missing = [str(f) for f in sorted(folders) if f.parts[0] in roots and f / "__init__.py" not in present]
    assert missing == []


def test_wheel_holds_the_packages_whole_and_nothing_else(tracked):
    files = {file.distribution_path for file in WheelBuilder(str(REPOSITORY)).recurse_included_files()}
    wanted = {path.as_posix() for path in tracked if path.parts[0] in PACKAGES}
    assert any(name.endswith(".wgsl") for name in wanted), "no kernel is in git"
    assert sorted(wanted - files) == []
    assert sorted(name for name in files if name.split("/")[0] not in PACKAGES) == []
