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
    """Attributes and caption retrieval on photographs that pretraining never saw."""
    logits, truth, right, best = [], [], [], []
    for batch in loader:
        pooled = encode_images(model, batch["pixel_values"])
        logits.append(head(pooled)[:, : len(operations.ATTRIBUTES)])
        truth.append(batch["attributes"])
        captions = batch["captions"]
        texts = model.get_text_features(**tokenizer(captions, padding=True, return_tensors="pt")).pooler_output
        scores = F.normalize(model.visual_projection(pooled), dim=1) @ F.normalize(texts, dim=1).T  # (64, 64)
        right += [captions[j] == captions[i] for i, j in enumerate(scores.argmax(1))]
        best += [captions[j] == captions[i] for i, j in enumerate(scores.argmax(0))]
    logits, truth = torch.cat(logits), torch.cat(truth)
    hit = ((logits > 0) & (truth > 0)).sum(0) / truth.sum(0)
    passed = ((logits <= 0) & (truth == 0)).sum(0) / (1 - truth).sum(0)
    ranked = {}
    for i, name in enumerate(operations.ATTRIBUTES):
        positive, negative = logits[truth[:, i] > 0, i], logits[truth[:, i] == 0, i]
        ranked[name] = (positive[:, None] > negative).float().mean().item()
    return {
        "attribute accuracy": ((logits > 0) == (truth > 0)).float().mean().item(),
        "always-no accuracy": (truth == 0).float().mean().item(),
        "attribute balanced accuracy": ((hit + passed) / 2).mean().item(),
        "attribute AUC": float(np.mean(list(ranked.values()))),
        "operation AUC": {name: round(ranked[name], 3) for name in operations.OPERATIONS},
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
