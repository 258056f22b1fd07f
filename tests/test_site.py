"""The documentation has a page for everything public, and a place for every page."""

import pathlib
import re

import keras_pruner

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_every_public_name_is_in_the_api_pages():
    text = "".join(page.read_text() for page in DOCS.glob("api/*.md"))
    shown = re.findall(
        r"^::: keras_pruner\.(?!compat\.)\S*?(\w+)$", text, flags=re.MULTILINE
    )
    public = set(keras_pruner.__all__) - {"__version__"}
    assert sorted(shown) == sorted(public)


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(listed) == pages
