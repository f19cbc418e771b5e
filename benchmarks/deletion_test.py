"""Which map of evidence to ship, and whether it holds: the deletion test on the mini-benchmark with mirage-tiny.

    OMP_NUM_THREADS=1 python benchmarks/deletion_test.py validation test

Maps are compared on the validation split alone; the test split is for the one that is shipped. Images are the carried
fakes, statistics are means over all fakes of a photograph. Writes `results/deletion_test.json` and `.md`.
"""

import argparse
import csv
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import wilcoxon
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not

from mirage_hf.deletion import DeletionCurves, deletion_test, without
from mirage_hf.detector_loading import load_detector
from mirage_hf.environment import processor_name, versions
from mirage_hf.image_io import load_rgb
from mirage_hf.patch_evidence import patch_evidence, stitch, vision_tower
from mirage_hf.torch_margins import TorchMargins

ROOT = Path(__file__).resolve().parent
DATA, MODEL, RESULTS = ROOT / "minibench" / "carried", ROOT / "minibench" / "mirage-tiny", ROOT / "results"
FRACTIONS, DRAWS, SEED, CHUNK, BLUR = (0.1, 0.2, 0.4), 4, 0, 16, 4.0
SHIPPED = "contributions"
MAPS = {
    SHIPPED: "attention weight × value of a patch in the last layer, along the derivative of the log-odds (shipped)",
    "contributions, no MLP": "the same, along the derivative behind the last MLP",
    "values": "cosines of the last layer's value of a patch, without attention (MaskCLIP)",
    "values, residual, MLP": "the same through the rest of the layer (CLIP Surgery's last layer)",
    "patches": "cosines of the projected patch tokens",
    "patches, reversed": "the same with the sign turned",
    "attention": "the class token's attention in the last layer, mean over heads",
}
FILLS = {
    "mean colour": "each image's mean colour (what `mirage-hf explain --deletion` does)",
    "blur": f"the image blurred with a sigma of {BLUR:g} pixels",
    "photograph": "the photograph's own pixels, saved alike",
}


class Detector:
    """mirage-tiny with its images of one split."""

    def __init__(self, split: str):
        loaded = load_detector(str(MODEL))
        self.margins = TorchMargins(loaded, "cpu")
        self.model = loaded.model
        with (DATA / "manifest.csv").open(newline="", encoding="utf-8") as handle:
            rows = [row for row in csv.DictReader(handle) if row["split"] == split and row["label"] == "fake"]
        self.rows = sorted(rows, key=lambda row: row["path"])
        self.images = torch.stack([self.read(loaded, row["path"]) for row in self.rows])  # (N, 3, H, W)
        partners = [row["path"].replace(f"_{row['generator']}.", "_photo.") for row in self.rows]
        self.fills = {
            "mean colour": self.images.mean(dim=(-2, -1), keepdim=True).expand_as(self.images),
            "blur": torch.from_numpy(gaussian_filter(self.images.numpy(), (0, 0, BLUR, BLUR), mode="reflect")),
            "photograph": torch.stack([self.read(loaded, path) for path in partners]),
        }

    @staticmethod
    def read(loaded, path: str) -> torch.Tensor:
        return loaded.transform(load_rgb(DATA / path))

    def score(self, pixel_values: torch.Tensor) -> np.ndarray:
        """p(fake) of the log-odds as they are, not calibrated."""
        return 1 / (1 + np.exp(-np.concatenate([self.margins(part) for part in pixel_values.split(CHUNK)])))

    def delete(self, grid: torch.Tensor, fill: str) -> DeletionCurves:
        """The test on all images."""
        size = self.model.clip.vision_model.embeddings.patch_size
        generator = torch.Generator().manual_seed(SEED)
        return deletion_test(self.score, self.images, grid, size, FRACTIONS, DRAWS, generator, fill=self.fills[fill])

    def against(self, curves: DeletionCurves, grid: torch.Tensor, fill: str) -> DeletionCurves:
        """The same for another map, beside the random patches of earlier curves."""
        size = self.model.clip.vision_model.embeddings.patch_size
        scores = [self.score(without(self.images, grid, grid, size, share, self.fills[fill])) for share in FRACTIONS]
        return replace(curves, hottest=np.stack(scores, axis=1))


@torch.no_grad()
def candidates(model, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    """All `MAPS` of a batch, each `(B, h, w)`, from one forward pass."""
    tower = vision_tower(model)
    layer, seen = tower.encoder.layers[-1], {}
    attention = layer.self_attn
    handles = [
        layer.register_forward_pre_hook(lambda _, args: seen.update(before=args[0])),
        layer.register_forward_hook(lambda _, args, output: seen.update(after=output)),
        attention.register_forward_pre_hook(
            lambda _, args, kw: seen.update(normed=kw["hidden_states"]), with_kwargs=True
        ),
    ]
    shipped = patch_evidence(model, pixel_values)
    for handle in handles:
        handle.remove()
    anchors = model.get_text_features()
    direction = (anchors[1] - anchors[0]) * model.clip.logit_scale.exp()  # (D,)
    before, after, normed = (seen[name].detach() for name in ("before", "after", "normed"))
    value = attention.v_proj(normed)  # (N, S, d)
    mixed = attention.out_proj(value)
    through = before + mixed
    through = through + layer.mlp(layer.layer_norm2(through))
    heads = (attention.num_heads, attention.head_dim)
    query, key = attention.q_proj(normed[:, 0]).unflatten(-1, heads), attention.k_proj(normed).unflatten(-1, heads)
    weights = (torch.einsum("nhd,nshd->nhs", query, key) * attention.scale).softmax(dim=-1)

    def cosine(tokens: torch.Tensor) -> torch.Tensor:
        embeds = F.normalize(model.clip.visual_projection(tower.post_layernorm(tokens)), dim=-1)
        return embeds @ direction  # (N, S)

    # The derivative of the log-odds by the class token behind the last layer.
    tokens = after[:, 0].clone().requires_grad_()
    with torch.enable_grad():
        embeds = F.normalize(model.clip.visual_projection(tower.post_layernorm(tokens)), dim=-1)
        embeds = F.normalize(embeds.unflatten(0, (len(pixel_values), -1)).mean(dim=1), dim=-1)
        (gradient,) = torch.autograd.grad((embeds @ direction).sum(), tokens)
    pull = torch.einsum(
        "nshd,nhd->nhs", value.unflatten(-1, heads), (gradient @ attention.out_proj.weight).unflatten(-1, heads)
    )
    maps = {
        "contributions, no MLP": (weights * pull).sum(dim=1),
        "values": cosine(mixed),
        "values, residual, MLP": cosine(through),
        "patches": cosine(after),
        "patches, reversed": -cosine(after),
        "attention": weights.mean(dim=1),
    }
    embeddings, size = tower.embeddings, pixel_values.shape[-2:]
    grids = {}
    for name, terms in maps.items():
        tiles = terms[:, 1 : 1 + embeddings.num_patches].unflatten(0, (len(pixel_values), -1))
        grids[name] = stitch(tiles, embeddings.image_size, embeddings.patch_size, *size)
    return {SHIPPED: shipped.grid, **grids}


def by_photograph(values: np.ndarray, rows: list[dict]) -> dict[str, float]:
    """Means over the fakes of each photograph."""
    photos = np.array([row["photo"] for row in rows])
    return {photo: float(values[photos == photo].mean()) for photo in sorted(set(photos))}


def summary(curves: DeletionCurves, rows: list[dict]) -> dict:
    """Mean curves, and the signed-rank test that the area is above 0, a photograph counting once."""
    photos = by_photograph(curves.area, rows)
    values = np.array(list(photos.values()))
    return {
        "intact": round(float(curves.intact.mean()), 4),
        "without_these": curves.hottest.mean(axis=0).round(4).tolist(),
        "without_random": curves.random.mean(axis=0).round(4).tolist(),
        "area": round(float(values.mean()), 4),
        "photographs": len(values),
        "photographs_above_0": int((values > 0).sum()),
        "p": float(wilcoxon(values, alternative="greater").pvalue),
    }


def validate() -> dict:
    """All maps with all fills on the validation split; the random patches are the same for all maps."""
    detector = Detector("validation")
    parts = [candidates(detector.model, part) for part in detector.images.split(CHUNK)]
    grids = {name: torch.cat([part[name] for part in parts]) for name in MAPS}
    found: dict[str, dict] = {}
    for fill in FILLS:
        shipped = detector.delete(grids[SHIPPED], fill)
        curves = {
            name: shipped if name == SHIPPED else detector.against(shipped, grid, fill) for name, grid in grids.items()
        }
        found[fill] = {name: summary(one, detector.rows) for name, one in curves.items()}
    return {"images": len(detector.rows), "fills": found}


def test() -> dict:
    """The shipped map on the test split, with what must not pass: the coldest patches, and maps shuffled."""
    detector = Detector("test")
    grid = torch.cat([patch_evidence(detector.model, part).grid for part in detector.images.split(CHUNK)])
    places = torch.rand(grid.flatten(1).shape, generator=torch.Generator().manual_seed(SEED + 1)).argsort(dim=1)
    shuffled = grid.flatten(1).gather(1, places).view(grid.shape)
    hottest = detector.delete(grid, "mean colour")
    coldest, chance = (detector.against(hottest, other, "mean colour") for other in (-grid, shuffled))
    found = {
        name: summary(curves, detector.rows)
        for name, curves in (("hottest", hottest), ("coldest", coldest), ("shuffled", chance))
    }
    generators = {}
    for generator in sorted({row["generator"] for row in detector.rows}):
        chosen = np.array([row["generator"] == generator for row in detector.rows])
        curves = DeletionCurves(
            hottest.fractions, hottest.intact[chosen], hottest.hottest[chosen], hottest.random[chosen]
        )
        generators[generator] = summary(curves, [row for row, keep in zip(detector.rows, chosen, strict=True) if keep])
    return {
        "images": len(detector.rows),
        "rows": found,
        "generators": generators,
        "area_by_photograph": {k: round(v, 5) for k, v in by_photograph(hottest.area, detector.rows).items()},
    }


def row_of(name: str, row: dict) -> str:
    without, random = (" ".join(f"{p:.3f}" for p in row[key]) for key in ("without_these", "without_random"))
    above = f"{row['photographs_above_0']}/{row['photographs']}"
    return f"| {name} | {row['intact']:.3f} | {without} | {random} | {row['area']:+.4f} | {above} | {row['p']:.2g} |"


def markdown(results: dict) -> str:
    """The page that is stored beside the JSON."""
    head = "| | intact | without these | without random | area | above 0 | p |\n|---|---|---|---|---|---|---|"
    shares = ", ".join(f"{100 * fraction:g}%" for fraction in FRACTIONS)
    lines = [
        "# Deletion test of the patch evidence",
        "",
        f"Made by `{results['command']}` on {results['machine']}.",
        "",
        f"Mean p(fake), not calibrated, of mirage-tiny on the mini-benchmark's carried fakes, and with {shares} of "
        f"their patches replaced: those that come first in a map, and random ones (mean of {DRAWS} draws). *Area*: by "
        "how much p falls further than without random patches, mean over the curve and over photographs; *above 0*: "
        "photographs for which it does; *p*: Wilcoxon's signed-rank test, one-sided, one number a photograph.",
        "",
    ]
    if "validation" in results:
        lines += ["## Choice of the map, on the validation split", ""]
        lines += [f"- *{name}*: {text}" for name, text in MAPS.items()]
        for fill, rows in results["validation"]["fills"].items():
            lines += ["", f"Replaced by {FILLS[fill]}:", "", head, *(row_of(*item) for item in rows.items())]
        lines.append("")
    if "test" in results:
        lines += ["## The shipped map, on the test split", "", head]
        lines += [row_of(*item) for item in results["test"]["rows"].items()]
        lines += ["", "Hottest, by generator:", "", head]
        lines += [row_of(*item) for item in results["test"]["generators"].items()]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stages", nargs="+", choices=("validation", "test"))
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where deletion_test.json is")
    args = parser.parse_args()
    path = args.out / "deletion_test.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for stage in args.stages:
        start = time.perf_counter()
        results[stage] = {"validation": validate, "test": test}[stage]()
        results[stage]["seconds"] = round(time.perf_counter() - start)
        results |= {
            "command": "OMP_NUM_THREADS=1 python benchmarks/deletion_test.py validation test",
            "machine": f"one thread of {processor_name()}",
            "versions": versions(),
            "settings": {"fractions": FRACTIONS, "draws": DRAWS, "seed": SEED, "blur_sigma": BLUR},
        }
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    main()
