"""Pushing to the Hub and loading from it, against a stub of its routes on the loopback interface.

huggingface_hub reads its environment at import, so the clients run in processes of their own: this file is also their
program, `python test_hub.py CLIENT FOLDER`. A client writes what it saw to `CLIENT.json` in the folder, the tests
below look at that and at what arrived in the stub.
"""

import importlib.abc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stub import PRIVATE_TOKEN, TOKEN, HubStub

CODE_FILES = {"configuration_mirage.py", "modeling_mirage.py", "prompt_learner.py", "adapter_checkpoint.py"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


# ------------------------------------------------------------------------------------------------------- the clients


def make_inputs():
    """Four images as tensors, and three as PIL images."""
    import numpy as np
    import torch
    from PIL import Image

    random = np.random.default_rng(3)
    images = [Image.fromarray(random.integers(0, 256, (h, 40, 3), dtype=np.uint8)) for h in (32, 50, 90)]
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), images


def logits_of(model) -> list:
    import torch

    with torch.inference_mode():
        return model.eval()(pixel_values=make_inputs()[0]).logits.tolist()


def loaded_logits(cls, repo_id: str, **kwargs) -> list:
    """Logits of the loaded model, or the exception, for the tests to fail one by one."""
    try:
        return logits_of(cls.from_pretrained(repo_id, **kwargs))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def scores_of(repo_id: str, **kwargs) -> list[dict[str, float]]:
    from transformers import pipeline

    results = pipeline("image-classification", model=repo_id, **kwargs)(make_inputs()[1], batch_size=2)
    return [{entry["label"]: entry["score"] for entry in result} for result in results]


def expected_scores_of(model, image_processor) -> list[dict[str, float]]:
    import torch

    with torch.inference_mode():
        pixel_values = image_processor(make_inputs()[1], return_tensors="pt")["pixel_values"]
        return [
            {"real": real, "fake": fake} for real, fake in model(pixel_values=pixel_values).logits.softmax(-1).tolist()
        ]


def exception_of(function, *args, **kwargs) -> list[str]:
    """Class names of the exception, its own first, and its message."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return [*(cls.__name__ for cls in type(error).__mro__), str(error)]
    return ["no exception"]


def make_adapter(repo_id: str, **kwargs):
    """A detector on a CLIP checkpoint of the stub, with prompts as if trained."""
    import torch
    from conftest import CLASS_INPUT_IDS

    from mirage_hf import MiraGeForImageDetection

    model = MiraGeForImageDetection.from_clip(repo_id, class_input_ids=CLASS_INPUT_IDS, **kwargs).eval()
    generator = torch.Generator().manual_seed(5)
    for parameter in model.prompt_learner.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return model


def push_clip(repo_id: str, seed: int, **kwargs) -> str:
    """Pushes a CLIP with random weights; returns the commit's hash."""
    import torch
    from conftest import make_clip_config
    from transformers import CLIPModel

    torch.manual_seed(seed)
    return CLIPModel(make_clip_config()).push_to_hub(repo_id, **kwargs).oid


def online(folder: Path) -> dict:
    """Pushes detectors, full and adapter-sized, and loads them again; then trains one and pushes it."""
    import torch
    from conftest import make_model
    from huggingface_hub import create_repo
    from torch.utils.data import Dataset
    from transformers import AutoModel, AutoModelForImageClassification

    from mirage_hf import MiraGeForImageDetection
    from mirage_hf.image_processing import build_image_processor
    from mirage_hf.trainer import MiraGeTrainer
    from mirage_hf.training_args import MiraGeTrainingArguments

    results = {"exceptions": {}}
    image_processor = build_image_processor(image_size=32)

    # Full
    create_repo("org/mirage-tiny")
    model = make_model()
    model.push_to_hub("org/mirage-tiny")
    image_processor.push_to_hub("org/mirage-tiny")
    results["full"] = {
        "pushed": logits_of(model),
        "loaded": [loaded_logits(cls, "org/mirage-tiny") for cls in (AutoModel, MiraGeForImageDetection)],
        "expected_scores": expected_scores_of(model, image_processor),
        "scores": scores_of("org/mirage-tiny"),
    }

    # Adapter-sized, on another repository; later commits to that one must not matter
    first_commit = push_clip("org/clip-tiny", seed=0)
    adapter = make_adapter("org/clip-tiny", revision=first_commit)
    first_adapter_commit = adapter.push_to_hub("org/mirage-adapter").oid
    image_processor.push_to_hub("org/mirage-adapter")
    push_clip("org/clip-tiny", seed=1)
    results["adapter"] = {
        "pushed": logits_of(adapter),
        "loaded": [
            loaded_logits(cls, "org/mirage-adapter", revision=revision)
            for cls in (AutoModelForImageClassification, MiraGeForImageDetection)
            for revision in ("main", first_adapter_commit)
        ],
        "expected_scores": expected_scores_of(adapter, image_processor),
        "scores": scores_of("org/mirage-adapter"),
    }
    AutoModel.from_pretrained("org/mirage-adapter", cache_dir=folder / "other_cache")
    results["other_cache"] = sorted(path.name for path in (folder / "other_cache").iterdir() if path.is_dir())

    # The base is private: the token given to `from_pretrained` must reach it
    push_clip("org/clip-private", seed=2, private=True, token=PRIVATE_TOKEN)
    private = make_adapter("org/clip-private", token=PRIVATE_TOKEN)
    private.push_to_hub("org/mirage-on-private")
    results["private"] = {
        "pushed": logits_of(private),
        "loaded": [
            loaded_logits(cls, "org/mirage-on-private", token=PRIVATE_TOKEN, cache_dir=folder / "third_cache")
            for cls in (AutoModel, MiraGeForImageDetection)
        ],
    }
    results["exceptions"]["private_base"] = exception_of(AutoModel.from_pretrained, "org/mirage-on-private")

    # What can go wrong
    def push_with_base(repo_id: str, base: str, revision: str | None = None) -> None:
        adapter.config.base_model_name_or_path, adapter.config.base_model_revision = base, revision
        adapter.push_to_hub(repo_id)

    push_with_base("org/mirage-lost-base", "org/clip-lost")
    push_with_base("org/mirage-wrong-base", "org/clip-tiny")  # its main branch has other weights of the same shapes
    push_with_base("org/mirage-lost-revision", "org/clip-tiny", "0" * 40)
    for name in ("lost-base", "wrong-base", "lost-revision", "missing"):
        for cls in (AutoModel, MiraGeForImageDetection):
            key = f"{name} {cls.__name__}"
            results["exceptions"][key] = exception_of(cls.from_pretrained, f"org/mirage-{name}")
    results["missing_clip"] = exception_of(MiraGeForImageDetection.from_clip, "org/clip-lost")
    base = {"base_model_name_or_path": "org/clip-tiny", "base_model_revision": first_commit}
    results["rescued"] = [
        loaded_logits(cls, "org/mirage-lost-base", **base) for cls in (AutoModel, MiraGeForImageDetection)
    ]
    results["accepted_wrong_base"] = loaded_logits(AutoModel, "org/mirage-wrong-base", base_model_fingerprint=None)

    # Trained
    class Images(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            pixel_values = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
            return {"pixel_values": pixel_values, "labels": index % 2}

    def train(repo_id: str, **kwargs) -> tuple[MiraGeTrainer, list]:
        trainer = MiraGeTrainer(
            model=make_adapter("org/clip-tiny"),
            args=MiraGeTrainingArguments(
                output_dir=str(folder / repo_id),
                hub_model_id=repo_id,
                hub_token=TOKEN,
                use_cpu=True,
                max_steps=2,
                per_device_train_batch_size=4,
                memory_size=8,
                warmup_epochs=0.5,
                save_strategy="steps",
                save_steps=1,
                disable_tqdm=True,
                **kwargs,
            ),
            train_dataset=Images(),
            processing_class=image_processor,
        )
        before = logits_of(trainer.model)
        trainer.train()
        trainer.push_to_hub()
        return trainer, before

    train("org/mirage-pushed-while-training", push_to_hub=True)
    trainer, before = train("org/mirage-trained")
    results["trained"] = {
        "before": before,
        "pushed": logits_of(trainer.model),
        "loaded": [loaded_logits(AutoModel, "org/mirage-trained")],
        "expected_scores": expected_scores_of(trainer.model, image_processor),
        "scores": scores_of("org/mirage-trained"),
    }
    return results


def without_package(folder: Path) -> dict:
    """Loads by the code in the repositories, with `mirage_hf` blocked."""

    class Blocker(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "mirage_hf":
                raise ImportError("mirage_hf is blocked")

    sys.meta_path.insert(0, Blocker())
    results = {"import": exception_of(__import__, "mirage_hf")}
    from transformers import AutoModelForImageClassification

    def load(name):
        return AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True)

    for name in ("mirage-tiny", "mirage-adapter", "mirage-trained"):
        refusal = exception_of(AutoModelForImageClassification.from_pretrained, f"org/{name}")
        model = load(f"org/{name}")
        result = results[name] = {"refusal": refusal, "module": type(model).__module__, "logits": logits_of(model)}
        result["scores"] = scores_of(f"org/{name}", trust_remote_code=True)
        model.push_to_hub(f"org/{name}-again")
        result["again"] = logits_of(load(f"org/{name}-again"))
    return results


def offline(folder: Path) -> dict:
    """Loads from the cache that `online` and `without_package` filled; the stub is gone."""
    from transformers import AutoModel, AutoModelForImageClassification

    from mirage_hf import MiraGeForImageDetection

    return {
        "full": loaded_logits(AutoModel, "org/mirage-tiny"),
        "adapter": loaded_logits(AutoModel, "org/mirage-adapter"),
        "adapter_without_auto": loaded_logits(MiraGeForImageDetection, "org/mirage-adapter"),
        "scores": scores_of("org/mirage-adapter"),
        "remote": loaded_logits(AutoModelForImageClassification, "org/mirage-adapter", trust_remote_code=True),
        "not_cached": exception_of(AutoModel.from_pretrained, "org/mirage-missing"),
    }


# --------------------------------------------------------------------------------------------------------- the tests


def run_client(name: str, folder: Path, env: dict[str, str]) -> dict:
    process = subprocess.run(
        [sys.executable, __file__, name, str(folder)],
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-6000:]
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """The stub, stopped, and what each client saw."""
    folder = tmp_path_factory.mktemp("hub")
    results = {}
    with HubStub() as hub:
        env = hub.env(folder / "home")
        results["online"] = run_client("online", folder, env)
        results["without_package"] = run_client("without_package", folder, env)
    results["offline"] = run_client("offline", folder, env | {"HF_HUB_OFFLINE": "1"})
    return hub, results


@pytest.fixture(scope="module")
def hub(clients) -> HubStub:
    return clients[0]


@pytest.fixture(scope="module")
def results(clients) -> dict:
    return clients[1]


def approx(values, tolerance: float = 1e-6):
    """Nested lists of numbers as one that compares up to a tolerance."""
    return [pytest.approx(row, abs=tolerance) for row in values]


def different(first, second) -> bool:
    pairs = zip(first, second, strict=True)
    return any(abs(a - b) > 1e-3 for row, other in pairs for a, b in zip(row, other, strict=True))


def test_pushed_files(hub):
    files = hub.files("org/mirage-tiny")
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} | CODE_FILES <= files.keys()
    assert not [path for path in files if path.endswith(PICKLES)]
    assert {path for path in files if path.endswith(".py")} == {
        path for path in hub.files("org/mirage-adapter") if path.endswith(".py")
    }


def test_stub_had_all_routes(hub):
    """The clients went through the stub: creation, weights over LFS, commits, downloads."""
    requests = hub.requests
    assert ("POST", "/api/repos/create") in requests
    assert ("POST", "/org/mirage-tiny.git/info/lfs/objects/batch") in requests
    assert ("POST", "/api/models/org/mirage-tiny/commit/main") in requests
    assert any(method == "PUT" and path.startswith("/lfs/") for method, path in requests)
    assert ("GET", f"/org/mirage-tiny/resolve/{hub.repos['org/mirage-tiny'][-1][0]}/model.safetensors") in requests


@pytest.mark.parametrize("kind", ["full", "adapter", "private", "trained"])
def test_loaded_equals_pushed(kind, results):
    result = results["online"][kind]
    for logits in result["loaded"]:
        assert logits == approx(result["pushed"])


@pytest.mark.parametrize("kind", ["full", "adapter", "trained"])
def test_pipeline_equals_pushed(kind, results):
    result = results["online"][kind]
    assert result["scores"] == approx(result["expected_scores"])


def test_adapter_is_small_and_fetches_its_base(hub):
    """The upload holds no encoder; the encoders are downloaded from the base, at the commit it was trained on."""
    size = len(hub.files("org/mirage-adapter")["model.safetensors"])
    assert size < 30_000 < 300_000 < len(hub.files("org/clip-tiny")["model.safetensors"])
    config = json.loads(hub.files("org/mirage-adapter")["config.json"])
    first_commit = next(commit for commit, files in hub.repos["org/clip-tiny"] if "model.safetensors" in files)
    assert config["base_model_name_or_path"] == "org/clip-tiny"
    assert config["base_model_revision"] == first_commit != hub.repos["org/clip-tiny"][-1][0]
    assert ("HEAD", f"/org/clip-tiny/resolve/{first_commit}/model.safetensors") in hub.requests


def test_cache_dir_reaches_the_base(results):
    folders = results["online"]["other_cache"]
    assert {"models--org--clip-tiny", "models--org--mirage-adapter"} <= set(folders)


@pytest.mark.parametrize("auto_class", ["AutoModel", "MiraGeForImageDetection"])
@pytest.mark.parametrize("name", ["lost-base", "lost-revision"])
def test_missing_base_is_named(name, auto_class, results):
    *classes, message = results["online"]["exceptions"][f"{name} {auto_class}"]
    assert "OSError" in classes
    assert "base_model_name_or_path" in message
    assert ("org/clip-lost" if name == "lost-base" else "org/clip-tiny") in message


def test_private_base_is_named(results):
    *classes, message = results["online"]["exceptions"]["private_base"]
    assert "OSError" in classes
    assert "org/clip-private" in message
    assert "base_model_name_or_path" in message


@pytest.mark.parametrize("auto_class", ["AutoModel", "MiraGeForImageDetection"])
def test_wrong_base_is_refused(auto_class, results):
    *classes, message = results["online"]["exceptions"][f"wrong-base {auto_class}"]
    assert classes[0] == "ValueError"
    assert "base_model_fingerprint" in message
    assert "org/clip-tiny" in message


def test_wrong_base_would_change_the_scores(results):
    """Control: the refusal above is not for nothing."""
    assert different(results["online"]["accepted_wrong_base"], results["online"]["adapter"]["pushed"])


def test_lost_base_can_be_named_anew(results):
    for logits in results["online"]["rescued"]:
        assert logits == approx(results["online"]["adapter"]["pushed"])


@pytest.mark.parametrize("auto_class", ["AutoModel", "MiraGeForImageDetection"])
def test_missing_repository(auto_class, results):
    *classes, message = results["online"]["exceptions"][f"missing {auto_class}"]
    assert "OSError" in classes
    assert "org/mirage-missing is not a local folder and is not a valid model identifier" in message


def test_from_clip_on_missing_repository(results):
    *classes, message = results["online"]["missing_clip"]
    assert "OSError" in classes
    assert "org/clip-lost" in message


@pytest.mark.parametrize("repo_id", ["org/mirage-trained", "org/mirage-pushed-while-training"])
def test_trainer_uploads_no_pickle(repo_id, hub):
    """In no commit, those during training included."""
    files = hub.files(repo_id)
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "training_args.json", "README.md"}
    assert expected | CODE_FILES <= files.keys()
    assert len(files["model.safetensors"]) < 30_000
    for commit, snapshot in hub.repos[repo_id]:
        pickles = [path for path, content in snapshot.items() if path.endswith(PICKLES) or is_pickle(content)]
        assert not pickles, commit


def is_pickle(content: bytes) -> bool:
    """Whether a file is a pickle or a zip archive of `torch.save`, whatever its name."""
    return content.startswith((b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6))))


def test_uploads_hold_no_secret(hub):
    """Neither the tokens nor the path of the sources are published."""
    assert b"<HUB_TOKEN>" in hub.files("org/mirage-trained")["training_args.json"]
    for repo_id, commits in hub.repos.items():
        for path, content in [item for _, files in commits for item in files.items()]:
            for secret in (TOKEN, PRIVATE_TOKEN, str(Path(__file__).parent)):
                assert secret.encode() not in content, (repo_id, path, secret)


def test_training_changed_the_model(results):
    assert results["online"]["trained"]["before"] != approx(results["online"]["trained"]["pushed"], 0)


@pytest.mark.parametrize(
    ("name", "kind"), [("mirage-tiny", "full"), ("mirage-adapter", "adapter"), ("mirage-trained", "trained")]
)
def test_remote_code_from_the_hub(name, kind, results):
    assert results["without_package"]["import"][0] == "ImportError"
    result, expected = results["without_package"][name], results["online"][kind]
    assert result["module"].startswith("transformers_modules.org.")
    assert result["logits"] == approx(expected["pushed"])
    assert result["scores"] == approx(expected["expected_scores"])
    assert result["again"] == approx(expected["pushed"])
    assert result["refusal"][0] == "ValueError"
    assert "trust_remote_code=True" in result["refusal"][-1]


def test_pushing_from_remote_code_keeps_the_code(hub):
    """The copy has code of its own and does not refer to the first repository's."""
    for name in ("mirage-tiny", "mirage-adapter"):
        first, again = hub.files(f"org/{name}"), hub.files(f"org/{name}-again")
        for path in first:
            if path.endswith((".py", ".safetensors")):
                assert again[path] == first[path], path
        assert json.loads(again["config.json"])["auto_map"] == json.loads(first["config.json"])["auto_map"]


def test_offline_from_cache(results):
    result = results["offline"]
    assert result["full"] == approx(results["online"]["full"]["pushed"])
    for way in ("adapter", "adapter_without_auto", "remote"):
        assert result[way] == approx(results["online"]["adapter"]["pushed"]), way
    assert result["scores"] == approx(results["online"]["adapter"]["expected_scores"])
    assert "OSError" in result["not_cached"]


if __name__ == "__main__":
    client, folder = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parent))
    answer = {"online": online, "without_package": without_package, "offline": offline}[client](Path(folder))
    Path(folder, f"{client}.json").write_text(json.dumps(answer))
