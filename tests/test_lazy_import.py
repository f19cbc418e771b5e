"""`import mirage_hf` imports next to nothing, and transformers still finds the classes, whatever is imported when."""

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import make_clip_config

import mirage_hf
from mirage_hf import BaselineConfig, BaselineForImageDetection, registration

ROOT = Path(__file__).parent.parent
CLASSES = {"BaselineConfig", "BaselineForImageDetection", "Detection", "Detector", "MiraGeConfig"}
CLASSES |= {"MiraGeForImageDetection"}


def run(code: str, *arguments: str) -> list[str]:
    """The lines that a fresh interpreter prints."""
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stdout.splitlines()


@pytest.fixture(scope="module")
def checkpoints(folders, tmp_path_factory) -> tuple[str, str]:
    """A MiraGe checkpoint and one of a baseline."""
    baseline = str(tmp_path_factory.mktemp("baseline"))
    config = BaselineConfig(backbone_config=make_clip_config(), method="linear_probe")
    BaselineForImageDetection(config).save_pretrained(baseline)
    return folders["full"], baseline


# ------------------------------------------------------------------------------------------------------- the package


def test_import_is_light():
    found = run(
        "import sys; before = set(sys.modules); import mirage_hf; dir(mirage_hf); mirage_hf.__version__;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    assert found == ["mirage_hf"]


def test_detector_imports_neither_datasets_nor_what_training_needs():
    image = "benchmarks/minibench/carried/images/test/gcompris-erase-calf_0_photo.jpg"
    found = run(
        "import sys; from mirage_hf import Detector; "
        f"print(Detector.from_pretrained('benchmarks/minibench/mirage-tiny').score({image!r}).status); "
        "print(*{'datasets', 'evaluate', 'matplotlib', 'pandas', 'peft', 'pyarrow', 'sklearn', 'typer',"
        "'transformers.trainer', 'transformers.pipelines'} & set(sys.modules))"
    )
    assert found == ["ok", ""]


def test_names():
    assert set(mirage_hf.__all__) == CLASSES | {"__version__"}
    assert set(mirage_hf.__all__) <= set(dir(mirage_hf))
    assert set(mirage_hf._MODULES) == CLASSES
    everything: dict = {}
    exec("from mirage_hf import *", everything)
    for name in CLASSES:
        assert everything[name] is getattr(mirage_hf, name)
        assert everything[name].__module__ == f"mirage_hf.{mirage_hf._MODULES[name]}"
        assert pickle.loads(pickle.dumps(everything[name])) is everything[name]


def test_unknown_name():
    with pytest.raises(AttributeError, match="^module 'mirage_hf' has no attribute 'Detectr'$"):
        mirage_hf.Detectr  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Detectr'"):
        exec("from mirage_hf import Detectr")


def test_without_torch():
    code = "import sys; sys.modules['torch'] = None; import mirage_hf\ntry: mirage_hf.Detector\n"
    assert run(f"{code}except ImportError as error: print(error.name)") == ["torch"]


def test_commands_import_without_the_collector(monkeypatch):
    from mirage_hf_cli.console import importing

    frozen = []
    monkeypatch.setattr("gc.freeze", lambda: frozen.append(gc.isenabled()))
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled() and frozen == []  # nothing was imported
    with pytest.raises(ValueError), importing():
        monkeypatch.setitem(sys.modules, "a_module_of_this_test", ModuleType("a_module_of_this_test"))
        raise ValueError
    assert gc.isenabled() and frozen == [False]
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


# ----------------------------------------------------------------------------------------- orders of import, for real

LOADS = """
import sys
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
for folder, model_type in zip(sys.argv[1:], ("mirage", "mirage-baseline"), strict=True):
    config = AutoConfig.from_pretrained(folder)
    named = type(AutoConfig.for_model(model_type))
    print(type(config).__module__, named is type(config) is CONFIG_MAPPING[model_type])
    for auto in (AutoModel, AutoModelForImageClassification):
        trusting = auto.from_pretrained(folder, trust_remote_code=True)
        print(type(trusting).__module__, type(auto.from_config(config)) is type(trusting))
"""
LOADED = [
    f"mirage_hf.{module} True"
    for module in ("configuration_mirage", *["modeling_mirage"] * 2, "baseline_config", *["baseline_models"] * 2)
]
REFUSED = """
import sys
from transformers import AutoConfig, AutoModel
try: AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error: assert "custom code" in str(error), error
else: raise SystemExit("known without the package")
import mirage_hf
"""
THREADS = """
import importlib, threading
import mirage_hf
names = ["transformers.models.auto.modeling_auto", "mirage_hf.detector", "transformers.models.clip.modeling_clip",
         "mirage_hf.baseline_models", "transformers.models.auto.configuration_auto", "mirage_hf.modeling_mirage"]
barrier, failed = threading.Barrier(len(names)), []
def work(name):
    barrier.wait()
    try: importlib.import_module(name)
    except BaseException as error: failed.append((name, error))
threads = [threading.Thread(target=work, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
"""
AGAIN = """
import sys
import mirage_hf, transformers.models.auto.modeling_auto
for name in [name for name in sys.modules if name.split(".")[0] == "mirage_hf"]: del sys.modules[name]
import mirage_hf
assert sum(type(finder).__name__ == "NamingFinder" for finder in sys.meta_path) == 1
"""
ORDERS = {
    "package first": "import mirage_hf",
    "auto classes first, which don't know it": REFUSED,
    "only the configurations first": "from transformers import AutoConfig; import mirage_hf",
    "class of the package first": "from mirage_hf import Detector",
    "module of the package only": "import mirage_hf.losses",
    "CLIP in between": "import mirage_hf; from transformers.models.clip.modeling_clip import CLIPModel",
    "reloaded": "import importlib, mirage_hf; importlib.reload(mirage_hf)",
    "imported again": AGAIN,
    "all at once": THREADS,
}


@pytest.mark.parametrize("order", ORDERS)
def test_order_of_imports(order, checkpoints):
    assert run(ORDERS[order] + "\n" + LOADS, *checkpoints) == LOADED


def test_pipeline(checkpoints):
    code = "import sys, mirage_hf; from transformers import pipeline; from PIL import Image; "
    code += "print(*sorted(a['label'] for a in pipeline('image-classification', model=sys.argv[1])(Image.new('RGB', "
    assert run(f"{code}(40, 40)))))", checkpoints[0]) == ["fake real"]


# -------------------------------------------------------------------------------------------------------- the finder


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Writes a module `some_tables` that is watched; returns its file and the tables seen after its import."""
    seen = []
    file = tmp_path / "some_tables.py"
    file.write_text("NAMES = {'theirs': 'Theirs'}\nLOADER = __spec__.loader\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registration.NAMING, "some_tables", lambda module: seen.append(dict(module.NAMES)))
    yield file, seen
    sys.modules.pop("some_tables", None)


def test_finder_acts_after_the_import_and_leaves_the_module_as_it_was(tables):
    import importlib.util
    from importlib.machinery import SourceFileLoader

    file, seen = tables
    spec = importlib.util.find_spec("some_tables")
    assert spec is not None and spec.loader.get_source("some_tables") == file.read_text()
    assert seen == []  # looking is not importing
    module = importlib.import_module("some_tables")
    assert seen == [{"theirs": "Theirs"}]
    assert type(module.__loader__) is type(module.__spec__.loader) is type(module.LOADER) is SourceFileLoader
    importlib.import_module("some_tables")
    assert len(seen) == 1
    importlib.reload(module)
    assert len(seen) == 2


def test_finder_in_a_zip_file(tables, tmp_path, monkeypatch):
    import importlib
    import zipfile

    file, seen = tables
    with zipfile.ZipFile(tmp_path / "tables.zip", "w") as archive:
        archive.write(file, file.name)
    file.unlink()
    monkeypatch.syspath_prepend(tmp_path / "tables.zip")
    assert "tables.zip" in str(importlib.import_module("some_tables").__file__)
    assert seen == [{"theirs": "Theirs"}]


def test_import_that_fails_is_not_followed_up(tables):
    import importlib

    file, seen = tables
    file.write_text("raise ImportError('no torch here')")
    with pytest.raises(ImportError, match="^no torch here$"):
        importlib.import_module("some_tables")
    assert seen == [] and "some_tables" not in sys.modules


def test_other_modules_are_left_alone():
    finder = next(found for found in sys.meta_path if isinstance(found, registration.NamingFinder))
    assert finder.find_spec("json") is None
    assert finder.find_spec("transformers.models.auto") is None


def test_names_that_are_taken():
    table = {"mirage": "MirageConfig"}
    with pytest.raises(ValueError, match="this transformers has its own model type 'mirage'"):
        registration.claim(table, "mirage", "MiraGeConfig")
    registration.claim(table, "mirage", "MirageConfig")  # twice the same does no harm
    registration.claim(table, "other", "OtherConfig")
    assert table == {"mirage": "MirageConfig", "other": "OtherConfig"}
