"""Programs that push to the stub of the Hub and load from it: `python hub_clients.py CLIENT FOLDER`.

huggingface_hub reads its environment at import, so each runs in a process of its own. It writes what it saw to
`CLIENT.json` in the folder.
"""

import importlib.abc
import json
import sys
from pathlib import Path

from hub_stub import PRIVATE_TOKEN, TOKEN


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


if __name__ == "__main__":
    client, folder = sys.argv[1:]
    answer = {"online": online, "without_package": without_package, "offline": offline}[client](Path(folder))
    Path(folder, f"{client}.json").write_text(json.dumps(answer))
