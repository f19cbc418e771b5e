"""Probability that an image is AI-generated, for each file named.

    python training/score.py outputs/offline photo.jpg picture.png

One line a file: path, p(fake), and "fake" if that is above the checkpoint's threshold. A file that cannot be read gets
the reason instead, and the exit code is then 3.
"""

import argparse
import sys
from pathlib import Path

# This folder must not come first on the path: its evaluate.py would hide the library of that name.
sys.path = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]

from transformers import pipeline

import mirage_hf  # noqa: F401  (registers the model with transformers)
from mirage_hf.console import setup_console
from mirage_hf.image_io import UnreadableImage, load_rgb


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="MiraGe checkpoint: folder or Hub id")
    parser.add_argument("images", nargs="+", help="image files")
    arguments = parser.parse_args()
    setup_console()
    try:
        classifier = pipeline("image-classification", model=arguments.model)
    except (OSError, ValueError) as error:
        sys.exit(f"score.py: {error}")
    unreadable = 0
    for path in arguments.images:
        try:
            image = load_rgb(path)
        except UnreadableImage as error:
            unreadable += 1
            print(f"{path}\tunreadable: {error}")
            continue
        scores = {result["label"]: result["score"] for result in classifier(image)}
        verdict = "fake" if scores["fake"] > classifier.model.config.threshold else "real"
        print(f"{path}\t{scores['fake']:.4f}\t{verdict}")
    return 3 if unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
