"""Loading by the code saved beside the weights, in a process where the package is not installed."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from answers import assert_same_logits, logits_of
from saved import read_config
from scores import assert_same_scores, expected_scores
from transformers import AutoModelForImageClassification

from mirage_hf import MiraGeForImageDetection

KINDS = ("full", "adapter")


def remote_client(folders, images_file, pixels_file, work):
    """Runs in a process where `mirage_hf` cannot be imported, so it imports all that it uses by itself."""
    import importlib.abc
    import json
    import sys
    from pathlib import Path

    class Blocker(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "mirage_hf":
                raise ImportError("mirage_hf is blocked")

    sys.meta_path.insert(0, Blocker())
    try:
        import mirage_hf  # noqa: F401
    except ImportError as error:
        results = {"import": str(error)}
    else:
        raise SystemExit("mirage_hf can be imported")

    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, pipeline

    pixel_values = torch.from_numpy(np.load(pixels_file))
    arrays = np.load(images_file)
    images = [Image.fromarray(arrays[name]) for name in arrays.files]

    def describe(model):
        with torch.inference_mode():
            logits = model(pixel_values=pixel_values).logits
        trainable = sorted({name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad})
        return {"logits": logits.tolist(), "module": type(model).__module__, "trainable": trainable}

    for kind, folder in folders.items():
        result = results[kind] = {}
        try:
            AutoModelForImageClassification.from_pretrained(folder)
        except ValueError as error:
            result["refused"] = str(error)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        result["config"] = [type(config).__module__, type(config).__name__]
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
        result["classification"] = describe(model)
        result["model"] = describe(AutoModel.from_pretrained(folder, trust_remote_code=True))
        again = str(Path(work, kind))
        model.save_pretrained(again)
        result["again"] = describe(AutoModelForImageClassification.from_pretrained(again, trust_remote_code=True))
        classify = pipeline("image-classification", model=folder, trust_remote_code=True)
        result["scores"] = list(classify(images, batch_size=8))
    Path(work, "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def remote(folders, images, tmp_path_factory) -> dict:
    """What `remote_client` saw, and `work`, the folder where it saved both models again."""
    work = tmp_path_factory.mktemp("remote")
    pixel_values = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    np.save(work / "pixels.npy", pixel_values.numpy())
    np.savez(work / "images.npz", *map(np.asarray, images))
    arguments = [folders, str(work / "images.npz"), str(work / "pixels.npy"), str(work)]
    process = subprocess.run(
        [sys.executable, "-I", "-c", f"{inspect.getsource(remote_client)}\nremote_client(*{arguments!r})"],
        env=os.environ | {"HF_MODULES_CACHE": str(work / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=work,
        stdin=subprocess.DEVNULL,  # nobody to answer the question whether to trust the code
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads((work / "results.json").read_text()) | {"work": work}


def test_remote_process_has_no_package(remote):
    assert remote["import"] == "mirage_hf is blocked"


@pytest.mark.parametrize("kind", KINDS)
def test_remote_code_needs_consent(kind, remote):
    assert "trust_remote_code=True" in remote[kind]["refused"]


@pytest.mark.parametrize("kind", KINDS)
def test_remote_code_gives_the_same_logits(kind, remote, models, pixel_values):
    expected = logits_of(models[kind], pixel_values)
    for way in ("classification", "model", "again"):
        result = remote[kind][way]
        torch.testing.assert_close(torch.tensor(result["logits"]), expected, atol=1e-6, rtol=0)
        assert result["module"].startswith("transformers_modules.")
        assert result["trainable"] == ["prompt_learner"]
    module, name = remote[kind]["config"]
    assert module.startswith("transformers_modules.")
    assert name == "MiraGeConfig"


@pytest.mark.parametrize("kind", KINDS)
def test_remote_code_pipeline(kind, remote, models, images):
    assert_same_scores(remote[kind]["scores"], expected_scores(models[kind], images))


@pytest.mark.parametrize("kind", KINDS)
def test_saving_from_remote_code(kind, remote, folders, models, pixel_values):
    """The same files as the package saves, down to the code, and the package loads them."""
    again = remote["work"] / kind
    for file in Path(folders[kind]).iterdir():
        if file.name == "preprocessor_config.json":
            continue
        if file.name == "config.json":
            assert read_config(again) == read_config(folders[kind])
        else:
            assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    model = AutoModelForImageClassification.from_pretrained(again)
    assert type(model) is MiraGeForImageDetection
    assert_same_logits(model, models[kind], pixel_values)
