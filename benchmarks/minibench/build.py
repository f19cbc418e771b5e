"""Build the offline mini-benchmark: real photographs against neural upscalers and style networks.

    python benchmarks/minibench/build.py            # fetch, photos, fakes, null: about ten minutes on one CPU core
    python benchmarks/minibench/build.py fakes      # one step; every step goes on where it stopped

`fetch` needs Debian 12's package lists and a Python package index; nothing later touches the network. The result is
`carried/`, which is committed, so this is only for those who want to check or change it.
"""

import argparse
import csv
import io
import logging
import os
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are loaded

import generators
import metadata_null
import photos
import sources
from PIL import Image

logger = logging.getLogger("minibench")

CARRIED = sources.HERE / "carried"
COLUMNS = ("path", "label", "generator", "split", "photo", "source", "license", "sha256")
CONTROLS = {"bicubic_x2": 2, "bicubic_x4": 4}


def encode(image: Image.Image, quality: int) -> bytes:
    """The one way an image is saved, real or fake."""
    buffer = io.BytesIO()
    photos.middle(image.convert("RGB")).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def variants(crop: photos.Crop) -> list[str]:
    """The versions of a crop: all generators on test crops; the style ones, whose files are large, on first crops."""
    names = generators.FAMILIES if crop.split == "test" else [generators.SEEN]
    return ["photo", *CONTROLS, *(name for name in names if crop.index == 0 or "style" not in name)]


def fakes() -> None:
    """Write every version of every crop, then the manifest and the attribution."""
    crops = list(photos.crops())
    rows, files, loaded = [], set(), {}
    for number, crop in enumerate(crops):
        for variant in variants(crop):
            path = CARRIED / "images" / f"{crop.name}_{variant}.jpg"
            files.add(path)
            if not path.exists():
                if variant == "photo":
                    image = crop.context
                elif variant in CONTROLS:
                    image = generators.resampled(crop, CONTROLS[variant])
                else:
                    if variant not in loaded:
                        loaded[variant] = generators.load(variant)
                    image = loaded[variant](crop)
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                partial.write_bytes(encode(image, crop.quality))
                partial.rename(path)
            digest = sources.sha256(path.read_bytes())
            about = (crop.split, crop.photo.id, crop.photo.package, crop.photo.license, digest)
            relative = path.relative_to(CARRIED).as_posix()
            if variant == "photo":  # shared reals: one row for each generator they stand against
                partners = [name for name in variants(crop) if name in generators.FAMILIES]
                rows += [(relative, "real", partner, *about) for partner in partners]
            else:
                rows.append((relative, "real" if variant in CONTROLS else "fake", variant, *about))
        if number % 20 == 19:
            logger.info("%d of %d crops", number + 1, len(crops))
    for path in (CARRIED / "images").rglob("*.*"):
        if path not in files:
            path.unlink()  # left by an earlier choice of crops
    with (CARRIED / "manifest.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows, key=lambda row: (photos.SPLITS.index(row[3]), row[2], row[1], row[0])))
    write_attribution({crop.photo.id for crop in crops})
    counts = Counter((row[3], row[2], row[1]) for row in rows)
    for (split, generator, label), count in sorted(counts.items()):
        logger.info("%-10s %-10s %-4s %d", split, generator, label, count)
    size = sum(path.stat().st_size for path in CARRIED.rglob("*") if path.is_file())
    logger.info("%d images, %.2f MB in all", len(files), size / 1e6)


def write_attribution(used: set[str]) -> None:
    """`ATTRIBUTION.md`: each photograph's package, file, author and licence."""
    lines = (sources.HERE / "attribution_header.md").read_text(encoding="utf-8").splitlines()
    lines += ["", "| photograph | package, version | file | author | licence |", "|---|---|---|---|---|"]
    for photo in sources.photographs():
        if photo.id in used:
            file = photo.file.rpartition("!")[2]
            author = f"[{photo.author}](<{photo.page}>)" if photo.page else photo.author
            version = f"{photo.package} {photo.version}"
            lines.append(f"| {photo.id} | {version} | `{file}` | {author} | {photo.license} |")
    (CARRIED / "ATTRIBUTION.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    steps = {
        "fetch": sources.fetch,
        "photos": photos.prepare,
        "fakes": fakes,
        "null": lambda: metadata_null.report(CARRIED),
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="step", help=f"{', '.join(steps)}; all of them by default")
    chosen = parser.parse_args().steps or list(steps)
    if unknown := set(chosen) - set(steps):
        parser.error(f"no step called {', '.join(sorted(unknown))}: there are {', '.join(steps)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for step in chosen:
        steps[step]()


if __name__ == "__main__":
    main()
