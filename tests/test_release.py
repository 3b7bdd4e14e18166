"""What must move together from one release to the next: versions, the lock, the licences, the image."""

import re
import tomllib

import pytest
import yaml
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
    rows = re.findall(r"^\| (\S+) +\| (.+?) +\|$", table, re.MULTILINE)
    rows = {canonicalize_name(name): licence for name, licence in rows[1:]}
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


@pytest.mark.parametrize("limit", ["--memory 2g", "--pids-limit 512", "--cpus 2", "--read-only"])
def test_the_container_is_started_with_the_same_limits_everywhere(limit):
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["app"]
    of_compose = {
        f"--memory {compose['mem_limit']}",
        f"--pids-limit {compose['pids_limit']}",
        f"--cpus {compose['cpus']}",
        *(["--read-only"] if compose["read_only"] else []),
    }
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    command = re.search(r"^docker run (?:.*\\\n)*.*$", page, re.MULTILINE)[0]
    hardened = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["image"]["env"]
    assert limit in of_compose
    assert limit in command
    assert limit in hardened["HARDENED"]


@pytest.mark.parametrize("name", ["docs/deploy.md", "compose.yaml", ".github/workflows/ci.yml"])
def test_the_page_is_published_to_this_machine_alone(name):
    published = re.findall(r"\S*8501:8501", re.sub(r"`-p 8501:8501`", "", (ROOT / name).read_text()))
    assert published
    assert all("127.0.0.1:8501:8501" in one for one in published if "/dev/tcp" not in one)


def test_what_the_workflows_run_is_pinned():
    """Actions by commit, images by digest: tags can be moved."""
    found = 0
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            for step in job.get("steps", []):
                action = step.get("uses")
                image = step.get("with", {}).get("image")
                assert action is None or re.search(r"@[0-9a-f]{40}$", action), action
                assert image is None or re.search(r"@sha256:[0-9a-f]{64}$", image), image
                assert image is not None or "setup-qemu" not in (action or ""), (
                    "its image is a tag by default"
                )
                found += image is not None
    assert found == 1


def test_pytest_alone_runs_in_one_process():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "-n" not in options["addopts"].split()
    assert "pytest -n 3 --dist loadfile" in (ROOT / "Makefile").read_text()
