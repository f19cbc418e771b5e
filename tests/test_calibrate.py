"""`mirage-hf calibrate`: report, JSON, exit codes, and errors in one line."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import typer
from noise_images import config_of, copy_with_more_fields, make_noise
from typer.testing import CliRunner

from mirage_hf.calibration import Calibration
from mirage_hf.calibration_run import CalibrationArguments
from mirage_hf_cli.calibrate import calibrate

APP = typer.Typer()
APP.command()(calibrate)


@pytest.fixture(scope="module")
def noise(folders, tmp_path_factory) -> Path:
    return make_noise(folders["full"], tmp_path_factory.mktemp("images"))


@pytest.fixture
def checkpoint(folders, tmp_path) -> Path:
    return copy_with_more_fields(folders["full"], tmp_path / "checkpoint")


def invoke(*arguments):
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


def test_the_command_prints_a_report_and_json(checkpoint, noise):
    answer = invoke("--model", checkpoint, "--data", noise, "--max-fpr", 0.1, "--alpha", 0.2, "--quiet")
    assert answer.exit_code == 0, answer.output
    stored = Calibration.from_dict(config_of(checkpoint)["calibration"])
    assert (stored.max_fpr, stored.unsure_alpha) == (0.1, 0.2)
    lines = answer.stdout.splitlines()
    assert lines[0] == "29 real and 19 fake images: noise, split validation, fakes of a"
    assert lines[-1] == f"saved as calibration {stored.id} in {checkpoint}"
    point = stored.operating_points[2]
    assert lines[-2].split()[:2] == ["0.1%", f"{point['threshold']:.4f}"]
    assert lines[-2].endswith("too few real images to tell")
    assert f"fake above {stored.threshold:.4f} ({stored.raw_threshold:.4f} without calibration)" in lines

    answer = invoke("--model", checkpoint, "--data", noise, "--max-fpr", 0.1, "--alpha", 0.2, "--quiet", "--json")
    told = json.loads(answer.stdout)
    assert told["calibration"] == stored.to_dict() and told["raw_threshold"] == stored.raw_threshold
    assert 0.7 > told["log_loss"]["before"] > told["log_loss"]["after"] > 0
    assert told["expected_calibration_error"].keys() == {"before", "after"}


def test_unreadable_images_are_listed_and_exit_3(checkpoint, noise, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(noise, data)
    (data / "a" / "real" / "damaged.png").write_bytes(b"no image")
    answer = invoke("--model", checkpoint, "--data", data, "--quiet", "--json")
    assert answer.exit_code == 3, answer.output
    told = json.loads(answer.stdout)
    assert [Path(item["path"]).name for item in told["unreadable"]] == ["damaged.png"]
    assert told["calibration"]["n_real"] == 29 and "calibration" in config_of(checkpoint)
    assert "damaged.png" in answer.stderr and len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "org/nothing"), "org/nothing is no folder here"),
        (("--output-dir", "{noise}"), "is in use: give an `output_dir` that is new or empty"),
        (("--output-dir", "{noise}/a/real/0.png"), "is in use"),
        (("--dtype", "float8"), "`dtype` is 'float8'"),
        (("--data", "{noise}/nowhere"), "nowhere' does not exist"),
        (("--data", "{flat}"), "all margins are the same"),
    ],
)
def test_an_error_is_one_line_exit_1_and_nothing_written(checkpoint, noise, pair, options, message):
    real = next((noise / "a" / "real").iterdir())
    given = {"--model": checkpoint, "--data": noise}
    given[options[0]] = options[1].format(noise=noise, flat=pair).replace(f"{noise}/a/real/0.png", str(real))
    before = (checkpoint / "config.json").read_bytes()
    answer = invoke(*(part for pair_ in given.items() for part in pair_), "--quiet")
    assert answer.exit_code == 1 and message in answer.stderr, answer.output
    assert len(answer.stderr.splitlines()) == 1 and "calibrate: " in answer.stderr
    assert (checkpoint / "config.json").read_bytes() == before


def test_a_detector_that_is_wrong_is_refused_not_turned_round(checkpoint, noise, tmp_path):
    for old, new in (("real", "fake"), ("fake", "real")):
        shutil.copytree(noise / "a" / old, tmp_path / "turned" / "a" / new)
    before = (checkpoint / "config.json").read_bytes()
    answer = invoke("--model", checkpoint, "--data", tmp_path / "turned", "--quiet")
    assert answer.exit_code == 1 and "no better than chance" in answer.stderr
    assert (checkpoint / "config.json").read_bytes() == before


def test_bad_usage_is_exit_2(checkpoint, noise):
    for options in (("--max-fpr", 1.5), ("--alpha", 0), ("--prior", 1)):
        assert invoke("--model", checkpoint, "--data", noise, *options).exit_code == 2
    assert invoke("--model", checkpoint).exit_code == 2


def test_every_option_arrives(monkeypatch, tmp_path):
    wanted = {
        "model": "org/detector",
        "data": "org/images",
        "output_dir": str(tmp_path / "out"),
        "revision": "abc",
        "fake_label": "synthetic",
        "layout": "generic",
        "split": "test",
        "generators": ["a", "b"],
        "max_per_class": 7,
        "fake_id": 0,
        "label_column": "answer",
        "real_root": "photos",
        "max_fpr": 0.02,
        "alpha": 0.3,
        "prior": 0.01,
        "batch_size": 3,
        "num_workers": 2,
        "device": "cpu",
        "dtype": "bfloat16",
        "quiet": True,
    }
    assert set(wanted) == {field.name for field in dataclasses.fields(CalibrationArguments)}
    assert all(CalibrationArguments("m", "d").__dict__[name] != value for name, value in wanted.items())
    seen = []

    def stop(arguments):
        seen.append(arguments)
        raise ValueError("seen")

    monkeypatch.setattr("mirage_hf.calibration_run.run_calibration", stop)
    options = []
    for name, value in wanted.items():
        flag = "--" + name.replace("_", "-")
        for part in value if isinstance(value, list) else [value]:
            options += [flag] if part is True else [flag, part]
    assert invoke(*options).exit_code == 1
    assert seen == [CalibrationArguments(**wanted)]
