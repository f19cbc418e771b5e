"""Pushing to the Hub and loading from it, against a stub of its routes on the loopback interface.

The clients run once, in processes of their own (`hub_clients.py`); the tests look at what they saw and at what arrived
in the stub.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_stub import PRIVATE_TOKEN, TOKEN, HubStub
from huggingface_hub import ModelCard

from mirage_hf.model_card import is_sealed

CLIENTS = Path(__file__).with_name("hub_clients.py")
CODE_FILES = {"configuration_mirage.py", "modeling_mirage.py", "prompt_learner.py", "adapter_checkpoint.py"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def run_client(name: str, folder: Path, env: dict[str, str]) -> dict:
    process = subprocess.run(
        [sys.executable, str(CLIENTS), name, str(folder)],
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


def test_trainer_uploads_the_package_s_card(hub):
    card = ModelCard(hub.files("org/mirage-trained")["README.md"].decode()).data
    assert (card.pipeline_tag, card.library_name, card.eval_results) == ("image-classification", "transformers", None)
    assert (card.base_model, card.base_model_relation) == ("org/clip-tiny", "adapter")
    text = hub.files("org/mirage-trained")["README.md"].decode()
    assert is_sealed(text) and "# mirage-trained\n" in text and "## What it can't do" in text
    assert "| `memory_size` | 8 |" in text and "Source: `training_args.json`." in text


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
