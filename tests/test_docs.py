"""The pages: their links, the commands that they name, the README's length, and their English."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

NOT_OURS = {"runs", "serving", "data"}  # what commands write; git ignores them
PAGES = sorted(
    path
    for pattern in ("*.md", "[!.]*/**/*.md")
    for path in ROOT.glob(pattern)
    if path.relative_to(ROOT).parts[0] not in NOT_OURS
)
ODD_PHRASES = ("anew", "told by", "told apart", "alike", "at hand", "one would", "is none here")
ELSEWHERE = ("http://", "https://", "mailto:")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read_prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def list_anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings; a heading that repeats gets a number."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *#*$", read_prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        repeats = (f"{anchor}-{number}" for number in range(1, len(anchors) + 1))
        anchors.add(anchor if anchor not in anchors else next(a for a in repeats if a not in anchors))
    return anchors


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# What `cxr` does, in short\n```\n# a comment\n```\n## Limits\n## Limits\n## [A b](c.md)\n"
    )
    assert list_anchors(page) == {"what-cxr-does-in-short", "limits", "limits-1", "a-b"}


def test_the_pages_of_the_layout_are_found():
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert names >= {"README.md", "docs/bulk.md", "docs/deploy.md", "docs/serving.md"}
    assert names >= {"CONTRIBUTING.md", "models/README.md", "training/README.md", "benchmarks/README.md"}


@every_page
def test_every_relative_link_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", read_prose(page)):
        if target.startswith(ELSEWHERE):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if anchor:
            assert anchor in list_anchors(linked), target


@every_page
def test_every_module_that_a_page_names_exists(page):
    modules = set(re.findall(r"python3? -m ([a-z_][\w.]*\w)", page.read_text(encoding="utf-8")))
    assert not {name for name in modules if find_module(name) is None}


def find_module(name: str) -> object | None:
    """The module's specification; none where it or a package of it is missing. It is not imported."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


def test_the_readme_is_for_a_person_in_a_hurry():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert 600 <= len(words) < 900


def test_the_readme_says_early_that_it_is_not_for_medical_use():
    beginning = (ROOT / "README.md").read_text(encoding="utf-8").split()[:100]
    assert "**Not for medical use.**" in " ".join(beginning)


@every_page
def test_no_page_has_an_odd_phrase(page):
    words = " ".join(page.read_text(encoding="utf-8").lower().split())
    assert not [phrase for phrase in ODD_PHRASES if re.search(rf"\b{phrase}\b", words)]
