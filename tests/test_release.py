"""What must move together from one release to the next: versions, the lock, the licences, the image."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cxr import ModelCard
from cxr.classifier import MODEL_NAMES, find_model
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENTRY = re.compile(r"^(\S+==[^\\\n]+) \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)*)", re.MULTILINE)
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def read_requirements() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def resolve(python: str, machine: str) -> dict[str, Version]:
    """The versions that the lock gives to Linux, by name; each name once."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"platform_machine": machine, "sys_platform": "linux", "platform_system": "Linux"}
    versions = {}
    for text, _ in ENTRY.findall(LOCK):
        entry = Requirement(text)
        if entry.marker is None or entry.marker.evaluate(environment):
            (pin,) = entry.specifier
            assert entry.name not in versions, entry.name
            versions[entry.name] = Version(pin.version)
    return versions


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_gives_what_the_requirements_accept(python, machine):
    versions = resolve(python, machine)
    for requirement in read_requirements():
        version = versions[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement}, but {version} is locked: make lock"


def test_every_locked_package_has_hashes():
    entries = ENTRY.findall(LOCK)
    lines = [line for line in LOCK.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(entries) == len(lines)
    assert all(hashes for _, hashes in entries)


def test_lock_has_nothing_of_training():
    assert not {"tensorflow", "tf-keras", "ray", "scikit-learn"} & resolve("3.12", "x86_64").keys()


def test_licences_of_all_that_the_image_carries():
    page = (ROOT / "docs" / "LICENCES.md").read_text(encoding="utf-8")
    table = page.split("<!-- requirements.lock: start -->")[1].split("<!-- end -->")[0]
    rows = dict(re.findall(r"^\| (\S+) \| (.+) \|$", table, re.MULTILINE))
    del rows["package"]
    assert rows.keys() == resolve("3.12", "x86_64").keys(), "make licences"
    assert not [licence for licence in rows.values() if re.search(r"GPL|SSPL|BUSL|Proprietary", licence)]


def test_changelog_begins_with_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.search(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert version[1] == PROJECT["version"]


def test_changelog_names_the_models_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for name in MODEL_NAMES:
        assert f"Models {ModelCard.load(find_model(name).with_suffix('.json')).version}:" in changelog


def test_what_the_image_copies_is_let_through():
    """`.dockerignore` excludes everything but what it names."""
    admitted = re.findall(r"^!([^*\n]+?)/?(?:\*.*)?$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert any(f"{name}/".startswith(f"{source}/") for name in admitted), source
