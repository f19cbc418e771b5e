"""The audit of both tiers, `benchmarks/results/minibench/audit.json`, and the README's tables made from it."""

import io
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import leak
import listing
import metadata_null
import photos
from generators import FROM_NOISE
from PIL import Image
from sources import HERE, photographs

logger = logging.getLogger(__name__)

AUDIT = HERE.parent / "results" / "minibench" / "audit.json"
README = HERE / "README.md"
CLASSIFIERS = {"classifier": False, "classifier with controls": True}
HOW = ("as saved", "aligned")
MARKS = ("<!-- made by build.py audit -->", "<!-- end -->")


def report(tiers: dict[str, Path]) -> None:
    """Write the audit of {tier: folder}, and its tables into the README. Raises `ValueError` on unequal encoding."""
    audit: dict[str, Any] = {"tiers": {}}
    for tier, folder in tiers.items():
        logger.info("auditing the %s tier", tier)
        audit["tiers"][tier] = describe(tier, folder)
    audit["leak"] = json.loads(leak.REPORT.read_text())
    audit["checksums"] = json.loads(photos.CHECKSUMS.read_text())
    audit = json.loads(json.dumps(audit), parse_float=lambda number: round(float(number), 4))
    AUDIT.parent.mkdir(parents=True, exist_ok=True)
    AUDIT.write_text(json.dumps(audit, indent=1, sort_keys=True) + "\n")
    before, _, rest = README.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    README.write_text(f"{before}{MARKS[0]}\n{tables(audit)}\n{MARKS[1]}{after}", encoding="utf-8")


def describe(tier: str, folder: Path) -> dict[str, Any]:
    """Counts, encoding, file sizes and the metadata-only null of one tier."""
    rows = listing.read(folder)
    files = {row.path: row for row in rows}
    saved = metadata_null.as_saved(folder, rows)
    sizes = defaultdict(list)
    for path, row in files.items():
        sizes[row.version].append(saved[path].length)
    split = json.loads(photos.FULL_SPLIT_FILE.read_text())
    used = {row.photo for row in rows}
    listed = [photo.id for photo in photographs() if photo.redistributable or tier == "full"]
    return {
        "photographs": count({(row.split, row.photo) for row in rows}),
        "crops": count({(row.split, row.crop) for row in rows}),
        "without a crop": {name: split[name] for name in listed if name not in used},
        "rows": counts(rows),
        "images": len(files),
        "bytes of images": sum(saved[path].length for path in files),
        "encoding": encoding(files.values(), saved),
        "mean bytes": {version: sum(each) / len(each) for version, each in sizes.items()},
        "null": {
            how: {
                "single numbers": metadata_null.single_numbers(rows, facts),
                **{name: metadata_null.classifier(rows, facts, controls) for name, controls in CLASSIFIERS.items()},
            }
            for how, facts in zip(HOW, (saved, metadata_null.aligned(folder, rows)), strict=True)
        },
    }


def count(pairs: set[tuple[str, str]]) -> dict[str, int]:
    """Distinct names in each split."""
    return dict(Counter(split for split, _ in pairs))


def counts(rows: Iterable[listing.Row]) -> dict[str, dict[str, dict[str, int]]]:
    """{split: {generator: {label: rows}}}."""
    result: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        labels = result.setdefault(row.split, {}).setdefault(row.generator, {})
        labels[row.label] = labels.get(row.label, 0) + 1
    return result


def encoding(rows: Iterable[listing.Row], facts: metadata_null.Facts) -> dict[str, Any]:
    """Size, chroma sampling and JPEG quality, all of which the versions of a crop must share. Raises `ValueError`."""
    by_crop = defaultdict(set)
    for row in rows:
        metadata = facts[row.path]
        by_crop[row.crop].add((metadata.size, metadata.sampling, metadata.tables))
    if unequal := sorted(crop for crop, kinds in by_crop.items() if len(kinds) > 1):
        raise ValueError(f"versions encoded unequally, so that the file gives the label away: {', '.join(unequal)}")
    kinds = [next(iter(each)) for each in by_crop.values()]
    known = qualities()
    return {
        "format": "JPEG",
        "sizes": sorted({f"{width}x{height}" for (width, height), _, _ in kinds}),
        "chroma sampling": sorted({str(sampling) for _, sampling, _ in kinds}),
        "crops at each quality": {str(q): n for q, n in sorted(Counter(known[t] for _, _, t in kinds).items())},
    }


def qualities() -> dict[tuple[tuple[int, ...], ...], int]:
    """The JPEG quality of each pair of quantisation tables."""
    result = {}
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        result[metadata_null.Metadata.of(buffer.getvalue()).tables] = quality
    return result


def tables(audit: dict[str, Any]) -> str:
    """The README's tables: what there is in each tier, and the metadata-only null."""
    lines = []
    for tier in ("carried", "full"):
        own = audit["tiers"][tier]
        lines += [
            f"**{tier.capitalize()} tier**: {own['images']} images, {own['bytes of images'] / 1e6:.1f} MB.",
            "",
            "| split | photographs | crops | real: photo, ×2, ×4 | fake |",
            "|---|---|---|---|---|",
        ]
        for split in listing.SPLITS:
            crops = own["crops"][split]
            fakes = {name: labels["fake"] for name, labels in own["rows"][split].items() if "fake" in labels}
            shown = ", ".join(
                f"{' '.join(name for name, n in fakes.items() if n == number)}: {number} each"
                for number in sorted(set(fakes.values()), reverse=True)
            )
            lines.append(f"| {split} | {own['photographs'][split]} | {crops} | {crops} each | {shown} |")
        lines.append("")
    lines += [
        "Metadata only, test split of the full tier:",
        "",
        "| | file size | classifier | with controls | aligned: tables | classifier | with controls |",
        "|---|---|---|---|---|---|---|",
    ]
    null = audit["tiers"]["full"]["null"]
    for name in sorted(null["as saved"]["single numbers"]["test"], key=lambda name: (name in FROM_NOISE, name)):
        cells = [name]
        for how, number in zip(HOW, ("file size", "quantisation tables"), strict=True):
            cells.append(f"{null[how]['single numbers']['test'][name][number]:.2f}")
            for kind in CLASSIFIERS:
                own = null[how][kind]["test"][name]
                cells.append(f"{own['AUC']:.2f}, {100 * own['balanced accuracy']:.0f}%")
        lines.append(f"| {' | '.join(cells)} |")
    for name in ("bicubic_x2", "bicubic_x4"):
        cells = [f"{name}, called fake"]
        for how in HOW:
            cells += ["", *(f"{100 * null[how][kind]['test'][name]['called fake']:.0f}%" for kind in CLASSIFIERS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
