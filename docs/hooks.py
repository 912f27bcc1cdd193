"""Pages that are made from the code when the site is built: tasks, methods, commands, metrics and the API.

MkDocs calls the functions named ``on_…``; what they add is never written into this folder.
"""

from __future__ import annotations

from typing import Any

from made_from_cards import method_pages, task_pages
from made_from_cli import command_pages
from made_from_code import api_page, contract_table, metrics_table, stored_versions
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_SECTIONS = {"Tasks": task_pages, "Methods": method_pages, "Commands": command_pages}
_MARKERS = {
    "<!-- metrics-table -->": metrics_table,
    "<!-- versions-table -->": stored_versions,
    "<!-- contract-table -->": contract_table,
}
_pages: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and continue the sections of the navigation with them."""
    _pages.clear()
    _pages["api.md"] = api_page()
    for section in config.nav or []:
        ((title, entries),) = section.items()
        if title in _SECTIONS:
            made = _SECTIONS[title]()
            _pages.update({path: content for path, _, content in made})
            entries[:] = [{name: path} for path, name, _ in made]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that were made."""
    for path, content in _pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Put made tables where a page asks for them."""
    del page
    for marker, make in _MARKERS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    return markdown
