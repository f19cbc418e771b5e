"""Build the offline mini-benchmark: real photographs against neural upscalers, style networks and two small GANs.

    python benchmarks/minibench/build.py            # everything, from nothing: about half an hour of one CPU core
    python benchmarks/minibench/build.py carried    # one step; every step goes on where it stopped

Two tiers: the full one is built under `work/full/` from all photographs with all generators, and is never committed;
the carried one, `carried/`, is the part of its files that may be passed on, byte for byte. `fetch` needs Debian 12's
package lists, npm and a Python package index; nothing later touches the network.
"""

import argparse
import io
import json
import logging
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are loaded

import audit
import generators
import leak
import listing
import photos
import sources
from PIL import Image

logger = logging.getLogger("minibench")

FULL, CARRIED = sources.WORK / "full", sources.HERE / "carried"
CONTROLS = {"bicubic_x2": 2, "bicubic_x4": 4}
CARRIED_CROPS = {"train": 2, "validation": 2, "test": 1}  # the first ones of each photograph


def encode(image: Image.Image, quality: int) -> bytes:
    """The one way an image is saved, real or fake."""
    buffer = io.BytesIO()
    photos.middle(image.convert("RGB")).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
    return buffer.getvalue()


def fakes_of(crop: photos.Crop) -> list[str]:
    """The generators that see a crop: all of them on test crops, the two style ones on first crops only."""
    names = generators.FAMILIES if crop.split == "test" else [generators.SEEN]
    return [name for name in names if crop.index == 0 or generators.FAMILIES[name] != "style"]


def versions(crop: photos.Crop) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Each version of a crop: its name, label, and the (generator, family) of its rows in the manifest."""
    fakes = [(name, generators.FAMILIES[name]) for name in fakes_of(crop)]
    # Plain photographs are shared: one row for each generator that they stand against.
    result = [("photo", "real", [(name, family) for name, family in fakes if name not in generators.FROM_NOISE])]
    result += [(name, "real", [(name, "control")]) for name in CONTROLS]
    for name, family in fakes:
        result.append((name, "fake", [(name, family)]))
        if name in generators.FROM_NOISE:
            result.append((f"native{generators.FROM_NOISE[name]}", "real", [(name, family)]))
    return result


class Maker:
    """Makes one version of a crop; each network is loaded when it's first asked for."""

    def __init__(self) -> None:
        self.loaded: dict = {}

    def __call__(self, crop: photos.Crop, version: str) -> Image.Image:
        if version == "photo":
            return crop.context
        if version in CONTROLS:
            return generators.resampled(crop, CONTROLS[version])
        if version.startswith("native"):
            return generators.at_native_size(crop, int(version.removeprefix("native")))
        if version not in self.loaded:
            self.loaded[version] = generators.load(version)
        return self.loaded[version](crop)


def full() -> None:
    """Write every version of every crop under `work/full/`; the manifest grows by one split after the other."""
    make, rows, files = Maker(), [], set()
    for split in photos.SPLITS:
        for number, crop in enumerate(photos.crops(split), 1):
            for version, label, places in versions(crop):
                path = FULL / "images" / f"{crop.name}_{version}.jpg"
                files.add(path)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial = path.with_suffix(".partial")
                    partial.write_bytes(encode(make(crop, version), crop.quality))
                    partial.rename(path)
                about = (split, crop.photo.id, crop.photo.package, crop.photo.license)
                digest = sources.sha256(path.read_bytes())
                relative = path.relative_to(FULL).as_posix()
                rows += [listing.Row(relative, label, *place, *about, digest) for place in places]
            if number % 20 == 0:
                logger.info("%s: %d crops", split, number)
        listing.write(FULL, rows)
        logger.info("%s: done", split)
    remove_others(FULL, files)


def carry() -> None:
    """Copy to `carried/` what may be passed on, with its part of the manifest, and write the attribution."""
    redistributable = {photo.id for photo in sources.photographs() if photo.redistributable}
    rows = [
        row
        for row in listing.read(FULL)
        if row.photo in redistributable
        and row.generator not in generators.FULL_ONLY
        and row.index < CARRIED_CROPS[row.split]
    ]
    files = {CARRIED / row.path for row in rows}
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FULL / file.relative_to(CARRIED), file)
    remove_others(CARRIED, files)
    listing.write(CARRIED, rows)
    write_attribution({row.photo for row in rows})
    checksums = json.loads(photos.CHECKSUMS.read_text())
    checksums["manifest"] = {folder.name: listing.checksum(folder) for folder in (CARRIED, FULL)}
    photos.CHECKSUMS.write_text(json.dumps(checksums, indent=1, sort_keys=True) + "\n")
    size = sum(path.stat().st_size for path in CARRIED.rglob("*") if path.is_file())
    logger.info("carried: %d images, %.2f MB in all", len(files), size / 1e6)


def remove_others(folder: Path, files: set[Path]) -> None:
    """Remove images left by an earlier choice of crops."""
    for path in (folder / "images").rglob("*.*"):
        if path not in files:
            path.unlink()


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
        "full": full,
        "carried": carry,
        "leak": lambda: leak.report(FULL),
        "audit": lambda: audit.report({"full": FULL, "carried": CARRIED}),
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
