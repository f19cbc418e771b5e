"""The nasty suite through every door: each case gets its stated status, and nothing else is lost because of it."""

import json
import os
from pathlib import Path

import jsonschema
import pyarrow.parquet
import pytest
from nasty import write_nasty_suite
from test_detector import SCHEMA
from typer.testing import CliRunner

from mirage_hf import Detector
from mirage_hf.scoring import ScoringArguments, run_scoring
from mirage_hf_cli.main import app


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_nasty_suite(tmp_path_factory.mktemp("nasty"))


@pytest.fixture(scope="module")
def file_cases(suite):
    """Those that a command can be told of: files, by name."""
    return [case for case in suite if isinstance(case.source, Path)]


@pytest.fixture
def listing(file_cases, tmp_path) -> Path:
    path = tmp_path / "names"
    path.write_bytes(b"\0".join(os.fsencode(case.source) for case in file_cases))
    return path


def test_detector(suite, folders):
    detector = Detector.from_pretrained(folders["full"], device="cpu")
    answers = detector.score([case.source for case in suite])
    assert len(suite) >= 60 and len(answers) == len(suite)
    for case, answer in zip(suite, answers, strict=True):
        assert answer.status == case.status, case.name
        assert (answer.p_fake is not None) == (answer.error is None) == (case.status == "ok"), case.name
        jsonschema.validate(json.loads(json.dumps(answer.to_dict())), SCHEMA)
    # What can be read is answered as if it stood alone.
    readable = [(case, answer) for case, answer in zip(suite, answers, strict=True) if case.status == "ok"]
    for case, answer in readable[:: len(readable) // 8]:
        if isinstance(case.source, Path):
            assert detector.score(case.source).p_fake == pytest.approx(answer.p_fake, abs=1e-6), case.name


def test_predict(file_cases, listing, folders):
    assert len(file_cases) >= 60
    arguments = ["predict", f"@{listing}", "--null", "--model", folders["full"], "--device", "cpu", "--json"]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 3, answer.output
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [row["status"] for row in rows] == [case.status for case in file_cases]
    assert [row["path"] for row in rows] == [
        os.fsencode(case.source).decode("utf-8", "backslashreplace") for case in file_cases
    ]


def test_bulk(file_cases, listing, folders, tmp_path):
    out = tmp_path / "out"
    arguments = ScoringArguments([f"@{listing}"], folders["full"], str(out), null=True, device="cpu", workers=1)
    summary = run_scoring(arguments)
    tables = [pyarrow.parquet.read_table(file).to_pylist() for file in sorted(out.glob("shard-*.parquet"))]
    rows = [row for table in tables for row in table]
    assert [row["path_bytes"] for row in rows] == [os.fsencode(case.source) for case in file_cases]
    assert [row["status"] for row in rows] == [case.status for case in file_cases]
    assert summary.complete and summary.unreadable == sum(case.status != "ok" for case in file_cases)
