"""What a release says of itself agrees: version, files, lower bounds, results of the checks in fresh environments."""

import csv
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from smoke_extras import LEFT_OUT, PROBES, names_of, requirements
from smoke_minimum import EXTRAS, lowest

from mirage_hf.version import __version__

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("mirage_hf", "mirage_hf_cli")


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """An sdist and the wheel built from it, of a copy of the checkout."""
    folder = tmp_path_factory.mktemp("release")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "outputs", "results", "minibench", "build", "*.egg-info")
    shutil.copytree(ROOT, folder / "checkout", ignore=left_out)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "checkout"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "dist"


def test_wheel_holds_the_package_its_types_and_tables_and_nothing_else(dist):
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == f"mirage_hf-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"mirage_hf-{__version__}.dist-info/METADATA").decode()
        entries = archive.read(f"mirage_hf-{__version__}.dist-info/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"mirage_hf-{__version__}.dist-info"}
    for package in PACKAGES:
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / package).glob("*.py")}
        assert modules <= names and f"{package}/py.typed" in names
    tables = {str(path.relative_to(ROOT)) for path in (ROOT / "mirage_hf").glob("published_tables/*.csv")}
    assert len(tables) >= 11 and tables <= names
    assert {"mirage_hf/benchmark.schema.json", "mirage_hf/detection.schema.json"} <= names
    assert not [
        name for name in names if re.search(r"tests?/|\.safetensors$|\.jpg$|\.ipynb$|outputs/|__pycache__", name)
    ]
    assert "mirage-hf = mirage_hf_cli.main:app" in entries
    assert (
        re.search(r"^License(-Expression)?: Apache-2.0$", metadata, re.MULTILINE)
        and "License-File: LICENSE" in metadata
    )
    extras = set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE))
    assert extras == set(requirements()) - {"install_requires"}


def test_sdist_holds_what_the_wheel_is_made_of(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff"} <= names
    assert {"mirage_hf/modeling_mirage.py", "mirage_hf/py.typed", "mirage_hf_cli/main.py"} <= names
    assert not [name for name in names if name.startswith(("outputs", "benchmarks/results", ".venv", "tests"))]


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## (.*)$", changes, re.MULTILINE)[0]
    assert newest == "Unreleased" or newest.startswith(__version__)
    assert "attr: mirage_hf.version.__version__" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


def test_citation_is_valid_and_the_readmes():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    assert {"message", "title", "authors", "preferred-citation"} <= set(citation)
    assert f"{{{citation['preferred-citation']['title']}}}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_requirement_has_a_lower_bound():
    for name, lines in requirements().items():
        for line in lines:
            if not line.startswith("mirage_hf["):
                assert re.fullmatch(r"[\w-]+(\[[\w-]+\])?>=[\d.]+(,<[\d.]+)?", line), (name, line)


def test_every_extra_is_tried_in_an_environment_of_its_own():
    extras = set(requirements()) - {"install_requires"}
    assert set(PROBES) | set(LEFT_OUT) == extras and not set(PROBES) & set(LEFT_OUT)
    stored = json.loads((RESULTS / "extras.json").read_text(encoding="utf-8"))
    assert set(stored["extras"]) == set(PROBES) and stored["left_out"] == LEFT_OUT
    for extra, facts in stored["extras"].items():
        assert facts["passed"] and all(command["exit_code"] == 0 for command in facts["commands"]), extra
        own = {name for name in names_of(requirements()[extra])}
        assert own == set(facts["versions"]), extra


def test_lowest_versions_were_tested_as_they_stand():
    stored = json.loads((RESULTS / "minimum_versions.json").read_text(encoding="utf-8"))
    pins = dict(pin.split("==") for pin in lowest())
    assert {name.lower().replace("_", "-") for name in pins} == set(stored["versions"])
    for name, version in pins.items():
        found = stored["versions"][name.lower().replace("_", "-")].partition("+")[0]
        assert found.split(".")[: version.count(".") + 1] == version.split("."), name
    assert stored["tests"]["passed"] > 500 and "failed" not in stored["tests"]
    assert {"torch", "transformers", "datasets"} <= set(pins) and set(EXTRAS) <= set(requirements())


def test_workflow_pins_its_actions_and_holds_no_secret():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    actions = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert len(actions) >= 6 and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)
    assert workflow["permissions"] == {"contents": "read"} and "secrets." not in text
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert {"test", "wheel", "docs", "browser", "minimum-versions"} <= set(workflow["jobs"])
    assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())


def test_contributing_lists_every_module():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w*]+)`", text))
    for path in (ROOT / "mirage_hf").glob("*.py"):
        patterns = [name for name in named if name.endswith("_*") and path.stem.startswith(name[:-1])]
        assert path.stem in named or patterns or path.stem in {"__init__", "version"}, path.stem


def test_published_tables_have_rows():
    for path in (ROOT / "mirage_hf" / "published_tables").glob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) >= 3, path.name
