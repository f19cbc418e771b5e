"""`mirage-hf score`: through the real executable where a process matters, in this process otherwise."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bulk import encoded, rows, shards, write_images
from typer.testing import CliRunner

from mirage_hf_cli.main import app

EXECUTABLE = Path(sys.executable).with_name("mirage-hf")


@pytest.fixture
def photos(tmp_path):
    return write_images(tmp_path / "photos", 6)


@pytest.fixture
def invoke(folders, tmp_path, monkeypatch):
    """The command with the tiny detector, in this process and forks of it."""
    monkeypatch.setattr("mirage_hf.scoring.usable_cores", lambda: 1)

    def call(*arguments, stdin=None):
        given = ["score", *map(str, arguments), "--model", folders["full"], "--output-dir", str(tmp_path / "out")]
        return CliRunner().invoke(app, [*given, "--device", "cpu", "--quiet"], input=stdin)

    return call


def test_executable_from_names_on_stdin_to_a_table(photos, folders, tmp_path):
    (photos / "a" / "cut.png").write_bytes(encoded(3)[:100])
    stdin = b"\0".join(str(path).encode() for path in [*sorted(photos.rglob("*.png")), photos / "gone.png"])
    out = tmp_path / "out"
    command = [EXECUTABLE, "score", "-", "--null", "--model", folders["full"], "--output-dir", out, "--json"]
    # One process with all cores: where there are several, it is started anew and not forked.
    command += ["--merge", tmp_path / "all.csv", "--workers", 1, "--device", "cpu"]
    answer = subprocess.run(list(map(str, command)), input=stdin, capture_output=True, timeout=300)
    assert answer.returncode == 3, answer.stderr
    summary = json.loads(answer.stdout)
    assert summary["status"] == {"corrupt": 1, "not_found": 1, "ok": 6} and summary["complete"]
    assert sum(summary["verdict"].values()) == 6 and summary["images"] == summary["images_scored"] == 8
    with open(tmp_path / "all.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)].count("ok") == 6
    assert b"Traceback" not in answer.stderr and b"images/s" not in answer.stderr  # no bar without a terminal


def test_text_and_going_on(photos, invoke, tmp_path):
    first = invoke(photos, "--shard-size", 2)
    assert first.exit_code == 0, first.output
    lines = first.stdout.splitlines()
    assert lines[0].startswith("6 images: ") and lines[1] == f"3 of 3 shards in {tmp_path / 'out'}"
    assert lines[2].startswith("6 scored now in ") and lines[2].endswith(" images/s") and len(lines) == 3
    assert invoke().stdout.splitlines() == lines[:2]


@pytest.mark.parametrize(("threshold", "code"), [(0, 4), (1, 0)])
def test_fail_on_fake(photos, invoke, threshold, code):
    arguments = (photos, "--fail-on", "fake", "--threshold", threshold)
    assert invoke(*arguments).exit_code == code
    (photos / "a" / "cut.png").write_bytes(b"")
    assert invoke(*arguments, "--restart").exit_code == (code or 3)  # a fake weighs more
    assert invoke("--threshold", threshold).exit_code == 3  # unless that was asked for


def test_parts(photos, invoke, tmp_path):
    assert invoke(photos, "--shard-size", 2, "--list-only").exit_code == 0
    merge = ("--merge", tmp_path / "all.jsonl")
    first = invoke("--shard-index", 1, "--num-shards", 2, *merge)
    assert (
        first.exit_code == 0 and len(shards(tmp_path / "out")) == 1 and "all.jsonl is not written yet" in first.stderr
    )
    last = invoke("--shard-index", 0, "--num-shards", 2, *merge)
    assert last.exit_code == 0 and len(rows(tmp_path / "out")) == 6 and last.stderr == ""
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 6
    assert (tmp_path / "out" / "summary.json").is_file()


def test_a_shard_that_is_not_finished_is_exit_1(photos, invoke, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("mirage_hf.scoring_listing.StoredListing.entries", full)
    answer = invoke(photos)
    assert answer.exit_code == 1
    assert answer.stderr.splitlines()[-2:] == [
        "score: shard 0 is not finished: OSError: No space left on device",
        "score: run the same command again for what is missing",
    ]


def test_ctrl_c(photos, invoke, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mirage_hf.scoring.run_processes", interrupted)
    answer = invoke(photos)
    assert answer.exit_code == 130
    assert answer.stderr.splitlines()[-1] == "score: stopped; finished shards are kept, the same command goes on"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--fail-on", "real"], 2, "takes fake"),
        (["--shard-index", "1"], 2, "goes with --num-shards"),
        (["--shard-index", "2", "--num-shards", "2"], 2, "must be below --num-shards, 2"),
        (["--min-side", "0"], 2, "--min-side"),
        (["--engine", "spark"], 1, "score: `engine` must be one of local, ray"),
        (["--merge", "x.txt"], 1, "score: `merge` must end in"),
        (["https://x.org/a.png"], 1, "is an address on the web"),
        ([], 1, "score: name what to score"),
    ],
)
def test_what_stops_it(invoke, tmp_path, arguments, code, message):
    answer = invoke(*arguments)
    assert answer.exit_code == code and message in answer.stderr and answer.stdout == ""
    if code == 1:
        assert answer.stderr.splitlines()[-1].startswith("score: ") and "Traceback" not in answer.stderr


def test_refusal_names_the_field(photos, invoke):
    assert invoke(photos).exit_code == 0
    answer = invoke(photos, "--min-side", 17)
    assert answer.exit_code == 1 and "(limits {" in answer.stderr and "--restart" in answer.stderr
    assert invoke(photos, "--min-side", 17, "--restart").exit_code == 0


def test_help_and_usage_errors_load_neither_torch_nor_pyarrow():
    code = (
        "import sys; from typer.testing import CliRunner; from mirage_hf_cli.main import app; "
        "results = [CliRunner().invoke(app, a) for a in (['score', '--help'], ['score', 'x'])]; "
        "print([r.exit_code for r in results], 'torch' in sys.modules, 'pyarrow' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[0, 2] False False"
