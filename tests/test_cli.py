"""The command line: through the real executable where a process matters, in this process otherwise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mirage_hf.benchmark_report import validate_results
from mirage_hf_cli.main import app

EXECUTABLE = Path(sys.executable).with_name("mirage-hf")


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_help_and_usage_errors_load_neither_torch_nor_transformers():
    code = (
        "import sys; from typer.testing import CliRunner; from mirage_hf_cli.main import app; "
        "results = [CliRunner().invoke(app, a) for a in (['--help'], ['benchmark', '--help'], ['benchmark', 'ufd'])]; "
        "print([r.exit_code for r in results], 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[0, 0, 2] False False"


def test_version_is_the_package_s():
    from mirage_hf import __version__

    assert invoke("--version").stdout.strip() == __version__


class TestBenchmark:
    def test_list(self):
        lines = invoke("benchmark", "--list").stdout.splitlines()
        assert lines[0].startswith("genimage ") and len(lines) == 12

    def test_executable_writes_everything_and_tells_of_a_file_it_could_not_read(self, folders, pair, tmp_path):
        (pair / "a/fake/damaged.png").write_bytes(b"no image")
        out = tmp_path / "out"
        arguments = ["benchmark", "folder", "--data", pair, "--model", folders["full"], "--output-dir", out]
        arguments += ["--align", "--degrade", "jpeg_30", "--replicates", "20", "--json"]
        answer = subprocess.run([EXECUTABLE, *map(str, arguments)], capture_output=True, text=True)
        assert answer.returncode == 3, answer.stderr
        results = json.loads(answer.stdout)
        validate_results(results)
        assert list(results["views"]) == ["raw", "aligned", "jpeg_30"]
        assert results == json.loads((out / "results.json").read_text(encoding="utf-8"))
        assert answer.stderr.splitlines()[-1].endswith(
            f"1 images could not be read; they are listed in {out}/scores/raw"
        )
        assert {path.name for path in out.iterdir()} >= {
            *(f"results.{suffix}" for suffix in ("json", "md", "tex", "csv", "html")),
            "pictures",
            "scores",
            "identity.json",
        }

    def test_a_table_and_exit_0_where_all_was_read(self, folders, pair, tmp_path):
        arguments = ("--model", folders["full"], "--output-dir", tmp_path / "out", "--replicates", 20, "--quiet")
        answer = invoke("benchmark", "folder", "--data", pair, *arguments)
        assert answer.exit_code == 0, answer.output
        assert "| raw" in answer.stdout or "| full" in answer.stdout
        assert answer.stdout == (tmp_path / "out" / "results.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("protocol", "data", "message"),
        [
            ("imagenet", "{pair}", "benchmark: unknown protocol 'imagenet': choose one of genimage, ufd"),
            ("folder", "{pair}/nowhere", "nowhere' does not exist"),
            ("synthbuster", "{pair}", "benchmark: Synthbuster holds fakes only: give a folder of real images"),
        ],
    )
    def test_an_error_is_one_line_and_exit_1(self, folders, pair, tmp_path, protocol, data, message):
        arguments = ("--data", data.format(pair=pair), "--model", folders["full"], "--output-dir", tmp_path / "out")
        answer = invoke("benchmark", protocol, *arguments, "--quiet")
        assert answer.exit_code == 1
        assert message in answer.stderr and len(answer.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_a_model_that_is_not_there(self, pair, tmp_path):
        answer = invoke("benchmark", "folder", "--data", pair, "--model", tmp_path / "nothing", "--quiet")
        assert answer.exit_code == 1 and len(answer.stderr.splitlines()) == 1
