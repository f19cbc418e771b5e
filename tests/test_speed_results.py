"""The stored measurements of speed: they follow from what was measured, and the pages made of them are up to date."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from handmade_speed import BENCHMARKS, facts, load_harness, make_section

ROOT = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results" / "speed"
FILES = sorted(RESULTS.glob("*.json"))
PAGE = "README.md"


@pytest.fixture
def harness(monkeypatch):
    return load_harness(monkeypatch)


def check(harness, folder):
    """Every file is one section of a real run, and the page is made of them."""
    for file in sorted(folder.glob("*.json")):
        _, stored = harness.records.read_section(file)
        if stored["dry"]:
            raise ValueError(f"{file.name} is of a dry run")
        device = "cuda" if stored["environment"]["cuda"] else "cpu"
        if file.stem != f"{stored['name']}-{device}":
            raise ValueError(f"{file.name} holds {stored['name']} on {device}")
    if (folder / PAGE).read_text(encoding="utf-8") != harness.page.make_page(folder):
        raise ValueError(f"{PAGE} isn't made of the files beside it: python benchmarks/speed.py page --out {folder}")


def plant(harness, folder, **changes):
    written = harness.records.section_to_dict(make_section(harness), **facts() | changes)
    (folder / "small-cpu.json").write_text(json.dumps(written), encoding="utf-8")
    (folder / PAGE).write_text(harness.page.make_page(folder), encoding="utf-8")


def run_script(monkeypatch, *arguments):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", ["speed.py", *map(str, arguments)])
    return runpy.run_path(str(BENCHMARKS / "speed.py"), run_name="__main__")


def test_what_is_stored(harness):
    if FILES:
        check(harness, RESULTS)


def test_readme_says_the_same(harness):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marks = harness.page.README_MARKS
    assert (marks[0] in text) == (marks[1] in text)
    if FILES and marks[0] in text:
        assert harness.page.put_between(text, marks, harness.page.readme_part(RESULTS)) == text


def test_the_check_passes_a_planted_file(harness, tmp_path):
    plant(harness, tmp_path)
    check(harness, tmp_path)


def test_the_check_can_fail(harness, tmp_path):
    plant(harness, tmp_path, dry=True)
    with pytest.raises(ValueError, match="dry run"):
        check(harness, tmp_path)
    plant(harness, tmp_path, name="large")
    with pytest.raises(ValueError, match="holds large"):
        check(harness, tmp_path)
    plant(harness, tmp_path)
    page = tmp_path / PAGE
    page.write_text(page.read_text(encoding="utf-8").replace("0.4 ×", "0.3 ×"), encoding="utf-8")
    with pytest.raises(ValueError, match="isn't made of"):
        check(harness, tmp_path)
    file = tmp_path / "small-cpu.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"median": 0.4,', '"median": 0.3,', 1), encoding="utf-8")
    with pytest.raises(ValueError, match="follow from its turns"):
        check(harness, tmp_path)


# ------------------------------------------------------------------------------------------------------- command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing", "--out", "x"], "invalid choice: 'nothing'"), (["vision"], "required: --out")],
)
def test_arguments_that_are_refused(monkeypatch, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        run_script(monkeypatch, *arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_no_gpu_is_said_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU here; --device cpu --dry") as stopped:
        run_script(monkeypatch, "contrastive", "--device", "cuda", "--out", tmp_path)
    assert "\n" not in stopped.value.code and not list(tmp_path.iterdir())


def test_pages_are_written(harness, monkeypatch, tmp_path):
    plant(harness, tmp_path)
    (tmp_path / PAGE).unlink()
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = runpy.run_path(str(BENCHMARKS / "speed.py"))
    readme = tmp_path / "project" / "README.md"
    readme.parent.mkdir()
    begin, end = harness.page.README_MARKS
    readme.write_text(f"before\n{begin}\n{end}\nafter\n", encoding="utf-8")
    monkeypatch.setitem(script["write_pages"].__globals__, "ROOT", readme.parent)
    script["write_pages"](tmp_path)
    check(harness, tmp_path)
    text = readme.read_text(encoding="utf-8")
    assert text == f"before\n{begin}\n{harness.page.readme_part(tmp_path)}\n{end}\nafter\n"
