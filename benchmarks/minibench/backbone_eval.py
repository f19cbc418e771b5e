"""What the small backbone is worth: attributes, caption retrieval, and a linear probe on the carried set."""

import csv

import numpy as np
import operations
import torch
from backbone import encode_images, image_processor
from PIL import Image
from sources import HERE
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import CLIPModel, CLIPTokenizer

CARRIED = HERE / "carried"


@torch.inference_mode()
def evaluate(model: CLIPModel, head: nn.Module, tokenizer: CLIPTokenizer, loader: DataLoader) -> dict:
    """Attributes, caption retrieval and the origin of detail on photographs that pretraining never saw."""
    names = ["a photo of a real", "a photo of a fake"]
    anchors = F.normalize(model.get_text_features(**tokenizer(names, return_tensors="pt")).pooler_output, dim=1)
    logits, truth, origin, right, best = [], [], [], [], []
    for batch in loader:
        pooled = encode_images(model, batch["pixel_values"])
        logits.append(head(pooled)[:, : len(operations.ATTRIBUTES)])
        truth.append(batch["attributes"])
        captions = batch["captions"]
        texts = model.get_text_features(**tokenizer(captions, padding=True, return_tensors="pt")).pooler_output
        images = F.normalize(model.visual_projection(pooled), dim=1)
        origin.append(images @ (anchors[1] - anchors[0]))
        scores = images @ F.normalize(texts, dim=1).T  # (64, 64)
        right += [captions[j] == captions[i] for i, j in enumerate(scores.argmax(1))]
        best += [captions[j] == captions[i] for i, j in enumerate(scores.argmax(0))]
    logits, truth, origin = torch.cat(logits), torch.cat(truth), torch.cat(origin)
    ranked, balanced, correct = {}, [], []
    for i, name in enumerate(operations.ATTRIBUTES):
        positive, negative = logits[truth[:, i] == 1, i], logits[truth[:, i] == 0, i]
        ranked[name] = (positive[:, None] > negative).float().mean().item()
        balanced.append(((positive > 0).float().mean() + (negative <= 0).float().mean()).item() / 2)
        correct += [*(positive > 0).tolist(), *(negative <= 0).tolist()]
    invented, recorded = origin[truth[:, -1] == 1], origin[truth[:, -1] == 0]
    return {
        "attribute accuracy": float(np.mean(correct)),
        "always-no accuracy": (truth[~truth.isnan()] == 0).float().mean().item(),
        "attribute balanced accuracy": float(np.mean(balanced)),
        "attribute AUC": float(np.mean(list(ranked.values()))),
        "AUC by operation": {name: round(ranked[name], 3) for name in (*operations.OPERATIONS, "invented")},
        "zero-shot AUC, real or fake in words": (invented[:, None] > recorded).float().mean().item(),
        "image to caption, 1 of 64": float(np.mean(right)),
        "caption to image, 1 of 64": float(np.mean(best)),
    }


@torch.inference_mode()
def carried_features(model: CLIPModel, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frozen image features of the carried set, their labels (fake = 1) and kinds."""
    with (CARRIED / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == split]
    processor = image_processor()
    images = [Image.open(CARRIED / row["path"]) for row in rows]
    features = [
        model.get_image_features(**processor(images[i : i + 64], return_tensors="pt")).pooler_output
        for i in range(0, len(images), 64)
    ]
    labels = np.array([row["label"] == "fake" for row in rows], int)
    # The version's name, which for a shared photograph isn't the generator's.
    kinds = np.array(["photo" if row["path"].endswith("_photo.jpg") else row["generator"] for row in rows])
    return F.normalize(torch.cat(features), dim=1).numpy(), labels, kinds


def linear_probe(model: CLIPModel) -> dict:
    """Logistic regression on the training split of the carried set, judged on its validation split."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, _ = carried_features(model, "train")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000))
    probe.fit(x, y)
    x, y, kinds = carried_features(model, "validation")
    called, score = probe.predict(x), probe.decision_function(x)
    plain = (y == 1) | (kinds == "photo")
    return {
        "called fake": {str(kind): round(float(called[kinds == kind].mean()), 3) for kind in sorted(set(kinds))},
        "balanced accuracy": float((called[y == 1].mean() + 1 - called[y == 0].mean()) / 2),
        "AUC against photos": float(roc_auc_score(y[plain], score[plain])),
    }
