"""
Do images that fit their captions better escape a detector more often? CLIP score against detection (Table 8).

    python training/clip_score.py --clip openai/clip-vit-large-patch14 --captions DATA/manifest.csv \
--scores outputs/test/scores.csv --output_dir outputs/clip_score

Captions: a CSV with path and caption, such as a manifest with that column. Scores: scores.csv of training/evaluate.py
or of a sweep, over the same images. Only generated images count. Writes clip_score.json, clip_score.md and
clip_scores.csv.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

# This folder must not come first on the path: its evaluate.py would hide the library of that name.
sys.path = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", required=True, help="CLIP checkpoint: folder or Hub id")
    parser.add_argument("--captions", required=True, help="CSV with path and caption, or a folder with manifest.csv")
    parser.add_argument("--scores", required=True, help="CSV with path, generator, label and p_fake")
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--threshold", type=float, default=0.5, help="fake above it")
    parser.add_argument("--prefix", default="", help='put before each caption, such as "A photo depicts "')
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", help="the GPU if there is one")
    options = parser.parse_args(arguments)
    try:
        print(run(options), end="")
    except (OSError, ValueError) as error:
        sys.exit(f"clip_score.py: {error}")


def run(options: argparse.Namespace) -> str:
    """
    Scores, writes the files and returns the table.

    Raises:
        OSError, ValueError: a file cannot be read, or nothing fits together.
    """
    import torch
    from transformers import AutoTokenizer, CLIPModel

    from mirage_hf.clip_score import ImageFiles, ScoredImage, clip_scores, correlate, read_captions, to_markdown
    from mirage_hf.console import setup_console
    from mirage_hf.image_processing import EvalTransform, derive_image_processor

    setup_console()
    captions = read_captions(options.captions)
    with open(options.scores, newline="", encoding="utf-8") as file:
        fakes = [row for row in csv.DictReader(file) if row["label"] == "1"]
    rows = [row for row in fakes if os.path.abspath(row["path"]) in captions]
    if not rows:
        raise ValueError(f"none of the {len(fakes)} generated images in {options.scores} has a caption: paths differ?")
    model = CLIPModel.from_pretrained(options.clip, dtype=torch.float32).eval()
    model.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    processor = derive_image_processor(options.clip, model.config.vision_config.image_size)
    scores = clip_scores(
        model,
        AutoTokenizer.from_pretrained(options.clip),
        EvalTransform(processor),
        ImageFiles([row["path"] for row in rows]),
        [captions[os.path.abspath(row["path"])] for row in rows],
        batch_size=options.batch_size,
        prefix=options.prefix,
    )
    detected = [float(row["p_fake"]) > options.threshold for row in rows]
    names = [row["generator"] for row in rows]
    results = correlate([ScoredImage(*image) for image in zip(names, scores.tolist(), detected, strict=True)])
    results |= {"clip": options.clip, "prefix": options.prefix, "threshold": options.threshold}
    table = to_markdown(results, "the detector")
    if len(rows) < len(fakes):
        table += f"{len(fakes) - len(rows)} of {len(fakes)} generated images have no caption and were left out.\n"
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "clip_score.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.output_dir / "clip_score.md").write_text(table, encoding="utf-8")
    with open(options.output_dir / "clip_scores.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "generator", "clip_score", "p_fake"])
        writer.writerows(
            [row["path"], row["generator"], score, row["p_fake"]]
            for row, score in zip(rows, scores.tolist(), strict=True)
        )
    return table


if __name__ == "__main__":
    main()
