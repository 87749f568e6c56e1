"""The book: notebooks run under `smoke`, pages built with warnings as errors, and opened in a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from nab.errors import ConfigError, NabError
from nab.report import book, places

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE = 1280, 390
PAGES = ["index", *re.findall(r"- file: (\S+)", (ROOT / "_toc.yml").read_text())]
EXECUTED = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.fixture(scope="session")
def smoke_book(tmp_path_factory: pytest.TempPathFactory, smoke_results: Path) -> Path:
    """The folder of the HTML pages, made as `nab book --profile smoke` makes them."""
    folder = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / "results" / "laptop", smoke_results / "laptop", dirs_exist_ok=True)
    book.copy_pages(folder, ROOT)
    for source in book.notebook_sources(ROOT):
        target = folder / f"{source.stem}.ipynb"
        book.execute(source, target, "smoke", {}, results=smoke_results, data_root=None, root=ROOT)
    return book.build_html(folder).parent


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert executable, f"none of {', '.join(BROWSERS)} is installed; `make chromium` installs it"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(QUIET))
        yield running
        running.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("page", PAGES)
def test_page_opens_without_a_fault(smoke_book: Path, browser: Browser, page: str, width: int, theme: Any) -> None:
    """No failed request, nothing remote, no console error, every picture drawn, no page wider than the screen."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    tab.on("request", lambda request: faults.append(f"remote: {request.url}") if "://" in request.url[5:] else None)
    tab.on("console", lambda message: faults.append(f"console: {message.text}") if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(f"script: {error}"))
    tab.goto((smoke_book / f"{page}.html").as_uri())
    tab.wait_for_load_state("networkidle")
    assert faults == []
    assert tab.locator("article.bd-article h1").count() == 1
    broken = tab.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.src)")
    assert broken == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.documentElement.dataset.theme") == theme
    context.close()


def test_figures_are_in_the_pages(smoke_book: Path, browser: Browser) -> None:
    for page, least in {"quickstart": 2, "attacks": 2, "detection": 2}.items():
        tab = browser.new_page()
        tab.goto((smoke_book / f"{page}.html").as_uri())
        assert tab.locator(".cell_output img").count() >= least, page
        assert tab.locator("table").count() >= 2, page
        tab.close()


def test_no_cell_shows_a_fault(smoke_book: Path) -> None:
    for page in PAGES:
        text = (smoke_book / f"{page}.html").read_text()
        assert "Traceback" not in text
        assert "Warning" not in text, page


def test_a_failing_cell_is_named(tmp_path: Path) -> None:
    source = tmp_path / "broken.md"
    source.write_text(
        "---\njupytext:\n  text_representation:\n    extension: .md\n    format_name: myst\n"
        "kernelspec:\n  name: python3\n  display_name: Python 3\n---\n\n"
        "```{code-cell} ipython3\n:tags: [parameters]\nprofile = ''\nresults = ''\n```\n\n"
        "```{code-cell} ipython3\nraise KeyError('no such thing')\n```\n"
    )
    with pytest.raises(NabError, match=r"broken\.md: a cell failed with KeyError: 'no such thing'"):
        book.execute(source, tmp_path / "broken.ipynb", "smoke", {}, results=tmp_path, data_root=None, root=tmp_path)


def test_the_checkout_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory if it has notebooks, else where the library is; an error says where was looked."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        (folder / "notebooks").mkdir(parents=True)
    (mine / "notebooks" / "a.md").write_text("text")
    monkeypatch.chdir(other)
    monkeypatch.setattr(places, "HOME", mine)
    assert places.checkout() == mine
    (other / "notebooks" / "b.md").write_text("text")
    assert places.checkout() == other
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "HOME", tmp_path)
    with pytest.raises(ConfigError, match=f"no notebooks in {tmp_path}/notebooks; run `nab book` in a checkout"):
        places.checkout()


def test_every_notebook_was_executed_and_kept() -> None:
    assert [path.stem for path in EXECUTED] == [path.stem for path in book.notebook_sources(ROOT)]


@pytest.mark.parametrize("executed", EXECUTED, ids=lambda path: path.stem)
def test_kept_notebook_is_in_step(executed: Path) -> None:
    """Made from its present text and the present results; `nab book --profile smoke --in-place` renews it."""
    about = json.loads(executed.read_text())["metadata"]["nab"]
    assert about["source"] == book.digest_of([ROOT / "notebooks" / f"{executed.stem}.md"])
    assert about["results"] == book.results_digest(ROOT / "results", ROOT)


@pytest.mark.parametrize("executed", EXECUTED, ids=lambda path: path.stem)
def test_kept_notebook_has_no_fault_and_no_path(executed: Path) -> None:
    notebook = json.loads(executed.read_text())
    kinds = {output["output_type"] for cell in notebook["cells"] for output in cell.get("outputs", [])}
    assert "error" not in kinds
    assert not re.search(r"/(home|root|Users|tmp|work)/", executed.read_text())


def test_kept_book_builds_right_after_a_clone(tmp_path: Path) -> None:
    """`jupyter-book build book/`: the links to the configuration hold, and no notebook has to run."""
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, clone / name)
    shutil.copytree(ROOT / "book", clone / "book", symlinks=True, ignore=shutil.ignore_patterns("_build"))
    assert book.build_html(clone / "book").is_file()


def test_link_in_the_book_leads_to_the_configuration() -> None:
    for name in ("_config.yml", "_toc.yml"):
        link = ROOT / "book" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name
