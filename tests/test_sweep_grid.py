"""Grids of sweeps: what a YAML file means, what is refused, and that those in training/grids are usable."""

from pathlib import Path

import pytest
import yaml

from mirage_hf.published import TABLES
from mirage_hf.sweep import parse_setting
from mirage_hf.sweep_grid import argument_names, parse_flags, read_grid, varied_name

ROOT = Path(__file__).parent.parent
GRIDS = sorted((ROOT / "training" / "grids").glob("*.yaml"))


def write_grid(path, **content) -> Path:
    path.write_text(yaml.safe_dump({"base": {"model_name_or_path": "m", "data": "d", "memory_size": 8}} | content))
    return path


def test_settings_lie_over_overrides_over_the_base(tmp_path):
    settings = {
        "first": {"title": "First", "arguments": {"memory_size": 0, "prompt_depth": 2}},
        "second": {"based_on": "first", "arguments": {"prompt_depth": 3, "temperature": None}},
    }
    path = write_grid(
        tmp_path / "g.yaml",
        overrides={"temperature": 0.2, "max_steps": 9},
        settings=settings,
        vary={"memory_size": [4, 8], "prompt_modality": ["text", "vision"]},
        seeds=[3, 5, 7],
        reference="second",
    )
    grid = read_grid(path, flags={"max_steps": 2}, data="other", seeds=2)
    assert grid.seeds == [3, 5] and grid.name == grid.title == "g"
    first, second, *varied = grid.settings.values()
    base = {"model_name_or_path": "m", "data": "other", "max_steps": 2}
    assert first.arguments == base | {"temperature": 0.2, "memory_size": 0, "prompt_depth": 2}
    assert second.arguments == base | {"memory_size": 0, "prompt_depth": 3}  # null: the default temperature holds
    assert (first.title, second.title) == ("First", "second")
    assert [setting.changes for setting in varied] == [
        {"memory_size": size, "prompt_modality": where} for size in (4, 8) for where in ("text", "vision")
    ]
    assert varied[1].name == "memory_size=4,prompt_modality=vision"
    assert grid.test == {"test": {"split": "test", "data": "other"}}
    assert [(setting.name, seed) for setting, seed in grid.runs(["second", "first"])] == [
        ("first", 3),
        ("second", 3),
        ("first", 5),
        ("second", 5),
    ]
    with pytest.raises(ValueError, match="`--only` names third; g has first, second"):
        grid.runs(["third"])


def test_what_is_tested(tmp_path):
    """The recipe's way of reading goes with its data, and with no other."""
    base = {"model_name_or_path": "m", "data": "d", "layout": "genimage", "generators": ["x"], "fake_id": 1}
    grid = write_grid(tmp_path / "g.yaml", base=base, settings={"s": None}, test={"split": "val"})
    assert read_grid(grid).test == {"test": {"split": "val", "data": "d", "layout": "genimage", "fake_id": 1}}
    assert read_grid(grid, test_data="t").test == {"test": {"split": "val", "data": "t"}}
    sets = {"one": {"data": "e", "layout": "ufd"}, "two": {"generators": ["y"]}}
    grid = write_grid(tmp_path / "g.yaml", base=base, settings={"s": None}, test=sets)
    assert read_grid(grid).test == {
        "one": {"split": "test", "data": "e", "layout": "ufd"},
        "two": {"split": "test", "data": "d", "layout": "genimage", "fake_id": 1, "generators": ["y"]},
    }
    with pytest.raises(ValueError, match="several test sets"):
        read_grid(grid, test_data="t")


@pytest.mark.parametrize(
    "content, match",
    [
        ({"settings": {"s": {"arguments": {"lerning_rate": 1}}}}, "setting s holds names that are no arguments: lern"),
        ({"settings": {"s": {"argument": {}}}}, "setting s holds names that are no keys: argument"),
        ({"settings": {"s": {"arguments": {"seed": 1}}}}, "setting s sets seed, which the sweep sets itself"),
        ({"settings": {"s": {"based_on": "t"}, "t": None}}, "s is based on t, which is no setting above"),
        ({"settings": {"a/b": None}}, "a/b can't be a folder's name"),
        ({"settings": {"s": None}, "overrides": {"depth": 1}}, "`overrides` holds names that are no arguments: depth"),
        ({"settings": {"s": None}, "base": {"data": "d", "lr": 1}}, "`base` holds names that are no arguments: lr"),
        ({"settings": {"s": None}, "base": {"model_name_or_path": "m"}}, "no `data`"),
        ({"settings": {"s": None}, "base": "gone.yaml"}, "gone.yaml is neither here nor beside the grid"),
        ({"settings": {"s": None}, "reference": "t"}, "`reference` names t; the settings are s"),
        ({"settings": {"s": None}, "metrics": ["acuracy"]}, "`metrics` names acuracy"),
        ({"settings": {"s": None}, "seeds": [1, 1]}, "`seeds` must be a list of different integers"),
        ({"settings": {"s": None}, "test": {"folder": "x"}}, "`test` holds names that are no keys: folder"),
        ({"settings": {"s": None}, "sedes": [1]}, "holds names that are no keys: sedes"),
        ({"vary": {"memory_size": 4}}, "`vary` must give memory_size a list"),
        ({"vary": {"memory": [4]}}, "`vary` holds names that are no arguments: memory"),
        ({"vary": {"memory_size": [4, 4]}}, "two settings are called memory_size=4"),
        ({}, "there is nothing to run"),
    ],
)
def test_a_bad_grid_is_refused_in_one_line(tmp_path, content, match):
    with pytest.raises(ValueError, match=match) as caught:
        read_grid(write_grid(tmp_path / "g.yaml", **content))
    assert "\n" not in str(caught.value) and ("g.yaml" in str(caught.value) or "base" in content)


def test_flags():
    flags = ["--max_steps", "2", "--fp16", "false", "--generators", "a", "b", "--learning_rate=0.5", "--use_cpu"]
    assert parse_flags([*flags, "--temperature", "-1"]) == {
        "max_steps": 2,
        "fp16": False,
        "generators": ["a", "b"],
        "learning_rate": 0.5,
        "use_cpu": True,
        "temperature": -1,
    }
    with pytest.raises(ValueError, match="'2' belongs to no flag"):
        parse_flags(["2"])


def test_names_of_varied_settings_are_folders():
    assert varied_name({"template": "a {}/b", "class_names": ["x", "y"]}) == "template=a-b,class_names=-x-,-y-"


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_grid_is_readable(path, monkeypatch):
    """As it stands, and on the paper's recipe: names are known, values are accepted, published tables are there."""
    monkeypatch.chdir(ROOT)
    base = yaml.safe_load(path.read_text())["base"]
    assert (ROOT / base).is_file()
    genimage = {"base": "training/recipes/genimage_sdv14.yaml", "data": "GenImage"}
    for options in ({}, genimage | {"flags": {"fp16": False, "use_cpu": True}}):
        grid = read_grid(path, **options)
        assert len(grid.seeds) >= 3
        assert grid.published is None or grid.published in TABLES
        for setting in grid.settings.values():
            assert set(setting.changes) <= argument_names()
            _, data, args = parse_setting(setting, 3, Path("out"))
            assert (args.seed, data.data) == (3, setting.arguments["data"])
    command = f"python training/sweep.py {path.relative_to(ROOT)}"
    assert command in path.read_text() and "--base training/recipes/" in path.read_text()


def test_there_is_a_grid_for_each_table():
    assert {path.stem for path in GRIDS} == set(
        "ablation mapping templates train_size lambda_memory prompts readings baselines cost".split()
    )
