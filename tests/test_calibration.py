"""A stored calibration: probabilities, verdicts, round trips, and the configurations that hold it."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from answers import assert_same_logits
from conftest import make_config, make_model

from mirage_hf import BaselineConfig, MiraGeConfig, MiraGeForImageDetection
from mirage_hf.calibration import Calibration, sigmoid

POINT = {
    "max_fpr": 0.05,
    "threshold": 0.7,
    "fpr": 0.04,
    "fpr_interval": [0.01, 0.1],
    "tpr": 0.6,
    "tpr_interval": [0.5, 0.7],
    "supported": True,
}
NUMBERS = {
    "temperature": 0.1 + 0.2,  # no short decimal: a round trip that rounds is seen
    "bias": -1 / 3,
    "prior": 0.5,
    "threshold": 2 / 3,
    "max_fpr": 0.05,
    "unsure_alpha": 0.1,
    "unsure_low": 0.3,
    "unsure_high": 0.9,
    "operating_points": [POINT],
    "n_real": 100,
    "n_fake": 80,
    "data": "held-out photographs",
}


def changed(**values) -> dict:
    return NUMBERS | values


def test_probability_is_the_formula_whatever_the_shape():
    found = Calibration(**NUMBERS)
    margins = np.array([[-30.0, -1.0], [0.25, 5.0]])
    wanted = [[1 / (1 + math.exp(-(m / NUMBERS["temperature"] + NUMBERS["bias"]))) for m in row] for row in margins]
    assert found.probability(margins) == pytest.approx(np.array(wanted), rel=1e-14)
    assert float(found.probability(np.float64(0.25))) == found.probability(margins)[1, 0]


def test_sigmoid_neither_overflows_nor_loses_small_probabilities():
    with np.errstate(all="raise", under="ignore"):
        values = sigmoid([-1e4, -700, -40, 0, 40, 1e4])
    assert values[0] == 0 and values[1] == pytest.approx(math.exp(-700)) and values[2] == pytest.approx(math.exp(-40))
    assert values[3:].tolist() == [0.5, 1, 1]


def test_verdicts_and_ties_with_the_ends_of_the_band():
    found = Calibration(**NUMBERS)
    assert found.verdicts([0.0, 0.2999, 0.3, 0.5, 0.9, 0.9001, 1.0]) == [
        "real",
        "real",
        "unsure",
        "unsure",
        "unsure",
        "fake",
        "fake",
    ]
    for value in (float("nan"), -0.1, 1.1):
        with pytest.raises(ValueError, match="`p_fake`"):
            found.verdicts([0.5, value])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("threshold", [0.0, 1e-4, 0.5, 0.97, 1.0])
def test_the_raw_threshold_gives_the_same_labels(temperature, threshold):
    found = Calibration(**changed(temperature=temperature, threshold=threshold, unsure_low=0.0, unsure_high=1.0))
    margins = np.random.default_rng(0).normal(0, 4, 2000)
    labels = found.probability(margins) > threshold
    assert ((sigmoid(margins) > found.raw_threshold) == labels).all()
    if 0 < threshold < 1:  # the threshold of one scale isn't that of the other
        assert ((sigmoid(margins) > threshold) != labels).any()


def test_round_trip_is_exact():
    found = Calibration(**NUMBERS)
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert found.to_dict()["id"] == found.id and len(found.id) == 12
    whole = Calibration(**changed(temperature=1, bias=0))  # as another program may write 1.0
    assert whole.id == Calibration(**changed(temperature=1.0, bias=0.0)).id


@pytest.mark.parametrize("name", [name for name in NUMBERS if name != "data"])
def test_every_number_is_in_the_id(name):
    other = {"operating_points": [], "n_real": 7, "n_fake": 7}.get(name, 0.71)
    if name == "unsure_low":
        other = 0.31
    assert Calibration(**changed(**{name: other})).id != Calibration(**NUMBERS).id
    assert Calibration(**changed(data="the same numbers")).id == Calibration(**NUMBERS).id


BAD = [
    ("temperature", 0),
    ("temperature", -1.0),
    ("temperature", float("inf")),
    ("temperature", "1"),
    ("temperature", None),
    ("temperature", True),
    ("bias", float("nan")),
    ("prior", 0),
    ("prior", 1.0),
    ("threshold", 1.1),
    ("threshold", -0.1),
    ("max_fpr", 1.0),
    ("max_fpr", -0.1),
    ("unsure_alpha", 0.0),
    ("unsure_alpha", 1.0),
    ("unsure_low", 0.7),
    ("unsure_low", -0.1),
    ("unsure_high", 0.6),
    ("unsure_high", 1.1),
    ("n_real", 0),
    ("n_fake", 2.0),
    ("n_fake", True),
    ("data", None),
    ("operating_points", None),
    ("operating_points", [{}]),
    ("operating_points", [POINT | {"supported": 1}]),
    ("operating_points", [POINT | {"tpr": 1.2}]),
    ("operating_points", [POINT | {"fpr_interval": [0.1]}]),
    ("operating_points", [POINT | {"fpr_interval": [0.1, None]}]),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_errors_name_the_field_in_one_line(name, value):
    with pytest.raises(ValueError, match=f"`calibration.{name}`") as error:
        Calibration.from_dict(changed(**{name: value}))
    assert "\n" not in str(error.value)


def test_errors_of_the_whole():
    for wrong in (3, None, [1]):
        with pytest.raises(ValueError, match="`calibration` must be a mapping"):
            Calibration.from_dict(wrong)
    with pytest.raises(ValueError, match="lacks bias"):
        Calibration.from_dict({name: value for name, value in NUMBERS.items() if name != "bias"})
    with pytest.raises(ValueError, match="unknown fields: slope"):
        Calibration.from_dict(changed(slope=1))
    stored = Calibration(**NUMBERS).to_dict()
    with pytest.raises(ValueError, match="`calibration.id` is .* they were changed"):
        Calibration.from_dict(stored | {"bias": 0.0})
    assert Calibration.from_dict(stored | {"data": "renamed"}).data == "renamed"
    stored.pop("id")
    assert Calibration.from_dict(stored | {"bias": 0.0}).bias == 0.0  # numbers of one's own, openly


def test_reading_needs_neither_scipy_nor_torch():
    code = (
        "import sys, types; package = types.ModuleType('mirage_hf'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['mirage_hf'] = package; from mirage_hf.calibration import Calibration; import json; "
        "print(Calibration.from_dict(json.loads(sys.argv[2])).verdicts([0.95]), "
        "{'scipy', 'torch', 'transformers'} & set(sys.modules))"
    )
    folder = str(Path(__file__).parents[1] / "mirage_hf")
    command = [sys.executable, "-c", code, folder, json.dumps(Calibration(**NUMBERS).to_dict())]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "['fake'] set()"


# --------------------------------------------------------------------------------------------------- configurations


STORED = Calibration(**NUMBERS).to_dict()


def test_it_survives_saving_loading_and_baking(tmp_path, pixel_values):
    model = make_model(calibration=STORED)
    assert make_config().calibration is None
    for folder in (tmp_path / "full", tmp_path / "baked"):
        model.save_pretrained(folder)
        loaded = MiraGeForImageDetection.from_pretrained(folder)
        assert loaded.config.calibration == STORED
        assert Calibration.from_dict(loaded.config.calibration) == Calibration(**NUMBERS)
        assert_same_logits(loaded, model, pixel_values)
        model.bake()


def test_the_code_beside_the_weights_reads_it(tmp_path):
    make_model(calibration=STORED).save_pretrained(tmp_path)
    specification = importlib.util.spec_from_file_location("travelled", tmp_path / "configuration_mirage.py")
    travelled = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(travelled)
    config = travelled.MiraGeConfig.from_pretrained(tmp_path)
    assert type(config) is not MiraGeConfig and config.calibration == STORED


def test_a_baselines_configuration_holds_it_too(tmp_path):
    BaselineConfig(method="linear_probe", calibration=STORED).save_pretrained(tmp_path)
    assert BaselineConfig.from_pretrained(tmp_path).calibration == STORED
    with pytest.raises(ValueError, match="`calibration.bias`"):
        BaselineConfig(method="linear_probe", calibration=changed(bias="x"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("yes", "`calibration` must be a mapping"),
        ({}, "`calibration` must hold a finite number as `temperature`, got None"),
        (changed(bias=float("nan")), "`bias`"),
        (changed(threshold="0.5"), "`threshold`"),
        (changed(unsure_low=True), "`unsure_low`"),
        (changed(unsure_high=float("inf")), "`unsure_high`"),
        (changed(temperature=-1), "positive `temperature`"),
        (changed(temperature=0), "positive `temperature`"),
        (changed(unsure_low=0.8), "`unsure_low` <= `threshold`"),
        (changed(unsure_high=0.5), "`threshold` <= `unsure_high`"),
        (changed(unsure_high=1.5), "`unsure_high` <= 1"),
        (changed(unsure_low=-0.5), "0 <= `unsure_low`"),
    ],
)
def test_a_corrupted_configuration_names_the_field(value, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        make_config(calibration=value)
    assert "\n" not in str(error.value)
    make_config().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"calibration": value}))
    with pytest.raises(ValueError, match=message):
        MiraGeConfig.from_pretrained(tmp_path)
