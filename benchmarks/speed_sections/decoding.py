"""From a JPEG file to the normalised tensor: what a detector does with a file, against the stock CLIP processor."""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil

from mirage_hf.detection import Preparer
from mirage_hf.fused_transform import FusedTransform
from mirage_hf.image_io import read_image
from mirage_hf.image_processing import build_image_processor, normalise_to_tensor

from .photographs import encode, make_jpegs, mosaic
from .records import Section, compare
from .turns import Settings, take_turns

OURS, STOCK, DECODER = "Detector's preparer", "CLIPImageProcessor", "decoding alone"
INEXACT = "the same with PyTorch's 8-bit resizing"


class Case(NamedTuple):
    """
    Files of one size.

    Args:
        size (`tuple[int, int]`): Width and height.
        files (`int`): How many a turn works through.
        bar (`float`): At least so many times as fast.
        dry_size (`tuple[int, int]`): Of a dry run, with two files.
    """

    size: tuple[int, int]
    files: int
    bar: float
    dry_size: tuple[int, int]


CASES = {"500 x 375": Case((500, 375), 32, 2.5, (250, 187)), "4000 x 3000": Case((4000, 3000), 3, 1.3, (800, 600))}


def run(settings: Settings) -> Section:
    """Both sizes on one core; every picture of the comparison has to come out alike."""
    section = Section("JPEG file to normalised tensor", [], {}, {})
    section.equality = differences()
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            size, count = (case.dry_size, 2) if settings.dry else (case.size, case.files)
            measure(name, case.bar, make_jpegs(Path(folder) / name, size, count), settings, section)
    section.notes.append(
        "One core on both sides. The stock path is `processor(Image.open(file), return_tensors='pt')` on the PIL "
        "backend; the preparer also checks size and shape in the header, turns by EXIF, refuses cut files and never "
        "raises. The limit is what the stock path takes against Pillow's decoding alone, which both have in common: "
        "libjpeg-turbo, the same one that other Python decoders wrap. Equality is in 8-bit levels before "
        "normalisation. PyTorch's resizing has weights of 16 bits where Pillow has 22, so a pixel may be a level off: "
        "its row says what giving up identical pixels would bring, and no detector uses it."
    )
    return section


def stock_tensor(processor: CLIPImageProcessorPil, file: Path | io.BytesIO) -> torch.Tensor:
    """As a user of transformers writes it."""
    return processor(Image.open(file), return_tensors="pt")["pixel_values"][0]


def measure(name: str, bar: float, files: list[Path], settings: Settings, section: Section) -> None:
    processor, preparer = CLIPImageProcessorPil(), Preparer(FusedTransform(build_image_processor()))
    inexact = Preparer(InexactTransform(preparer.transform))
    ways = {
        STOCK: lambda: [stock_tensor(processor, file) for file in files],
        OURS: lambda: [preparer(file).pixel_values for file in files],
        INEXACT: lambda: [inexact(file).pixel_values for file in files],
        DECODER: lambda: [Image.open(file).load() for file in files],
    }
    section.turns[name] = turns = take_turns(ways, settings)
    section.items[name] = len(files)
    rounds = 3 if settings.dry else 15
    section.profiles[f"{OURS}, {name}"] = shares = stages(files[0], preparer, rounds)
    with Image.open(files[0]) as image:
        width, height = image.size
    size = preparer.transform.resized((width, height))
    stock, ours = (taps(width, height, size, kept) for kept in (size[0], 224))
    bytes_each = sum(file.stat().st_size for file in files) / len(files)
    parts = ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())
    options = {
        "case": name,
        "items": len(files),
        "goal": "at least",
        "limit": turns.ratio(STOCK, DECODER).median,
        "count": f"The same {bytes_each:.3g} bytes of JPEG ({bytes_each / width / height:.2f} for each pixel) are "
        f"decoded to {width * height / 1e6:.3g} megapixels on both sides; resizing needs {stock / 1e6:.3g} million "
        f"products of weight and level for the whole picture, {ours / 1e6:.3g} for the square that is kept.",
    }
    held_by = f"Of the time of a file: {parts}."
    section.rows.append(compare(turns, OURS, STOCK, bar=bar, held_by=held_by, **options))
    share = turns.ratio(DECODER, INEXACT).median
    section.rows.append(
        compare(turns, INEXACT, STOCK, held_by=f"Decoding is {share:.0%} of the time of a file.", **options)
    )


class InexactTransform:
    """
    Resizes with PyTorch, to within a level of Pillow, and is [`FusedTransform`] in all else.

    Args:
        exact ([`FusedTransform`]): Of CLIP's processor.
    """

    def __init__(self, exact: FusedTransform):
        self.exact = exact

    def __call__(self, image: Image.Image) -> torch.Tensor:
        width, height = self.exact.resized(image.size)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
        return normalise_to_tensor(
            Image.fromarray(resized.numpy()).crop(central_square(width, height)), self.exact.table
        )


def central_square(width: int, height: int) -> tuple[int, int, int, int]:
    """The box that CLIP's processor keeps."""
    left, top = (width - 224) // 2, (height - 224) // 2
    return left, top, left + 224, top + 224


def taps(width: int, height: int, size: tuple[int, int], kept: int) -> float:
    """Products of a bicubic resizing along rows, of which `kept` pixels are wanted, then along columns."""
    across, down = (max(4.0, 4 * old / new) for old, new in zip((width, height), size, strict=True))
    return 3 * kept * (height * across + size[1] * down)


def stages(file: Path, preparer: Preparer, rounds: int) -> dict[str, float]:
    """Shares of a file's processor time; stages are timed by turns, each with the data that it has in a whole pass."""
    images: list[Image.Image] = []
    work: dict[str, Callable[[], object]] = {
        "all": lambda: preparer(file),
        "decoding": lambda: Image.open(file).load(),
        "reading": lambda: images.append(read_image(file).image),
        "resizing and normalising": lambda: preparer.transform(images.pop()),
    }
    times: dict[str, list[int]] = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, do in work.items():
            begin = time.process_time_ns()
            do()
            times[name].append(time.process_time_ns() - begin)
    spent = {name: median(each[1:]) for name, each in times.items()}
    spent["checks of the file"] = max(0.0, spent.pop("reading") - spent["decoding"])
    whole = max(spent.pop("all"), sum(spent.values()))
    shares = {name: round(part / whole, 3) for name, part in spent.items()}
    return shares | {"moving between them": round(1 - sum(shares.values()), 3)}


def differences() -> dict[str, float]:
    """The largest difference to the stock path in 8-bit levels, for kinds of JPEG and odd sizes."""
    processor, transform = CLIPImageProcessorPil(), FusedTransform(build_image_processor())
    scale = 255 * torch.tensor(processor.image_std)[:, None, None]
    picture = mosaic((500, 375), 1)
    odd = [(227, 391), (391, 227), (224, 224), (1021, 683), (97, 64), (2003, 301)]
    kinds = {
        "4:2:0": [encode(picture)],
        "4:2:2": [encode(picture, subsampling="4:2:2")],
        "4:4:4": [encode(picture, subsampling="4:4:4")],
        "progressive": [encode(picture, progressive=True)],
        "gray": [encode(picture.convert("L"))],
        "CMYK": [encode(picture.convert("CMYK"))],
        "odd sizes": [encode(mosaic(size, number)) for number, size in enumerate(odd)],
    }

    def largest(preparer: Preparer, files: list[bytes]) -> float:
        pairs = ((preparer(file).pixel_values, stock_tensor(processor, io.BytesIO(file))) for file in files)
        # A level is 1 / 255 before normalisation.
        return max(round(float(((ours - theirs).abs() * scale).max()), 4) for ours, theirs in pairs)

    found = {f"levels, {kind}": largest(Preparer(transform), files) for kind, files in kinds.items()}
    return found | {f"levels, {INEXACT}": largest(Preparer(InexactTransform(transform)), kinds["4:2:0"])}
