"""The documentation builds without a warning and without a network, and says what the commands say."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mirage_hf_cli.main import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COMMANDS = {command.name for command in app.registered_commands}


def build(target: Path, config: Path = DOCS / "mkdocs.yml") -> subprocess.CompletedProcess:
    """`mkdocs build --strict`, in which a warning is an error."""
    executable = Path(sys.executable).with_name("mkdocs")
    return subprocess.run(
        [executable, "build", "--strict", "--config-file", config, "--site-dir", target],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(target)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"WARNING|ERROR", done.stderr), done.stderr
    return target


def test_site_has_every_page(site):
    pages = {path.stem for path in (DOCS / "pages").glob("*.md")}
    assert {path.stem for path in site.glob("*.html")} == pages | {"404"}
    assert len(pages) >= 15


def test_pages_load_nothing_from_elsewhere(site):
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source|video)[^>]*\ssrc=\"?([^\s\">]+)", text)
        loaded += re.findall(r"<link[^>]*\shref=\"?([^\s\">]+)", text)
        assert loaded and not [address for address in loaded if re.match(r"(https?:)?//", address)], path.name
    styles = "".join(path.read_text(encoding="utf-8") for path in site.glob("assets/**/*.css"))
    assert styles and not re.search(r"url\([\"']?(https?:)?//|@import", styles)


def test_a_broken_link_fails_the_build(tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.md").write_text("# Page\n\n[nowhere](nowhere.md)\n", encoding="utf-8")
    config = tmp_path / "mkdocs.yml"
    text = (DOCS / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[0]
    config.write_text(text.replace("hooks: [hooks.py]", f"hooks: [{DOCS / 'hooks.py'}]"), encoding="utf-8")
    done = build(tmp_path / "site", config)
    assert done.returncode != 0 and "nowhere.md" in done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS - {"train", "evaluate"}))
def test_commands_page_has_what_help_shows(site, name):
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "commands.html").read_text(encoding="utf-8")))
    section = page.split(f"mirage-hf {name}¶", 1)[1].split("¶", 1)[0]
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300", "TERM": "dumb"}).stdout
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", shown)) - {"--help"}
    listed = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", section))
    assert len(options) >= 3 and options <= listed


def test_every_command_is_on_the_page(site):
    headings = re.findall(r"<h2[^>]*>mirage-hf ([\w-]+)", (site / "commands.html").read_text(encoding="utf-8"))
    assert set(headings) == COMMANDS and {"predict", "train", "score"} <= COMMANDS


def test_reference_has_the_docstrings(site):
    page = (site / "api.html").read_text(encoding="utf-8")
    wanted = re.findall(r"^::: ([\w.]+)$", (DOCS / "pages" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(wanted) > 35
    for name in wanted:
        assert f'id="{name}"' in page, name
    text = " ".join(re.sub(r"<[^>]+>", "", page).split())
    assert "m, the number of learnable embeddings in each prompted layer" in text
    assert not re.search(r"\[<code>[\w.~]+</code>\]", page)  # brackets became links


def test_readme_and_contributing_link_to_files_and_headings_that_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            path, _, anchor = link.partition("#")
            if link.startswith("http"):
                continue
            target = ROOT / (path or name)
            assert target.exists(), link
            if anchor:
                headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {slug(heading) for heading in headings}, link


def slug(heading: str) -> str:
    """The anchor that GitHub and MkDocs give a heading."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
