"""Training images of one core: augmented, and from the JPEG on, against the same operations written plainly.

Where albumentations is installed, it is timed beside them, in its own terms: OpenCV's operations, other pixels.
"""

import cProfile
import io
import math
import pstats
import time
from collections.abc import Callable
from functools import partial

import torch
from PIL import Image

from mirage_hf.augmentations import AugmentationConfig, TrainAugmentation
from mirage_hf.image_dataset import DetectionImages
from mirage_hf.image_io import load_rgb
from mirage_hf.image_processing import TrainTransform, build_image_processor

from .counting import flops_of_batch
from .networks import make_detector
from .photographs import encode, mosaic
from .plain_augmentation import PlainAugmentation, in_albumentations
from .records import Section, compare
from .turns import Settings, take_turns

OURS, PLAIN, ALBUMENTATIONS = "TrainTransform", "plain Pillow and NumPy", "albumentations"
FROM_FILE, PLAIN_FROM_FILE, DECODER = "DetectionImages", "Image.open and plain", "decoding alone"
# The mini-benchmark's, training/recipes/mirage_tiny.yaml.
MINI = AugmentationConfig(
    geometry="crop",
    rotation_probability=0.0,
    brightness_contrast_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
    noise_probability=0.0,
    jpeg_probability=0.2,
    jpeg_quality=(60, 95),
)
# Recipe, size of the files, side of the output.
CASES = {
    "default recipe, 500 x 375 to 224": (AugmentationConfig(), (500, 375), 224),
    "mini-benchmark's recipe, 192 x 192 to 96": (MINI, (192, 192), 96),
}
IMAGES, DRY_IMAGES = 128, 4
H100_BF16_FLOPS, UTILISATION, BATCH = 989e12, 0.5, 128


def run(settings: Settings) -> Section:
    """Both recipes, and how many cores one H100 needs for the first."""
    section = Section("Training augmentation, one core", [], {}, {})
    for name, (config, size, side) in CASES.items():
        measure(name, config, size, side, settings, section)
    case = next(iter(CASES))
    each = section.turns[case].each(FROM_FILE, section.items[case]).median
    flops = flops_of_step(settings.dry) / BATCH
    takes = H100_BF16_FLOPS * UTILISATION / flops
    section.details["h100"] = {
        "gflops_of_an_image": round(flops / 1e9, 2),
        "images_per_second": round(takes, 1),
        "images_per_second_of_a_core": round(1 / each, 1),
        "cores": math.ceil(takes * each),
    }
    section.notes += [
        "The plain operations give the same tensors from the same seeds. albumentations, timed where it is installed, "
        "makes the same kinds of change at the same probabilities with OpenCV: its cubic interpolation doesn't smooth "
        "what it shrinks, so its pixels have other traces than those at evaluation.",
        f"One H100: a training step of ViT-L/14 in batches of {BATCH} counts {flops / 1e9:.4g} GFLOP an image; at "
        f"{UTILISATION:.0%} of {H100_BF16_FLOPS / 1e12:.0f} TFLOP/s, the dense peak of bfloat16, it takes "
        f"{takes:.4g} images a second. A core here gives {1 / each:.4g}, decoding of JPEGs of 500 x 375 included: "
        f"{math.ceil(takes * each)} cores.",
    ]
    return section


def measure(
    name: str, config: AugmentationConfig, size: tuple[int, int], side: int, settings: Settings, section: Section
) -> None:
    encoded = [encode(mosaic(size, number)) for number in range(DRY_IMAGES if settings.dry else IMAGES)]
    pictures = [load_rgb(data) for data in encoded]
    processor = build_image_processor(side)
    ours, plain = TrainTransform(processor, TrainAugmentation(config, side)), PlainAugmentation(config, processor)
    rows = DetectionImages([{"image": {"bytes": data}, "label": 0} for data in encoded], ours)
    ways: dict[str, Callable[[], object]] = {
        OURS: partial(seeded, ours, pictures),
        PLAIN: partial(seeded, plain, pictures),
        FROM_FILE: lambda: [rows[index]["pixel_values"] for index in range(len(rows))],
        PLAIN_FROM_FILE: lambda: seeded(lambda data: plain(Image.open(io.BytesIO(data))), encoded),
        DECODER: lambda: [Image.open(io.BytesIO(data)).load() for data in encoded],
    }
    albumentations = in_albumentations(config, processor)
    if albumentations is not None:
        ways[ALBUMENTATIONS] = partial(seeded, albumentations, pictures)
    pairs = zip(ways[OURS](), ways[PLAIN](), strict=True)
    section.equality[name] = max(float((mine - theirs).abs().max()) for mine, theirs in pairs)
    section.turns[name] = turns = take_turns(ways, settings)
    section.items[name] = len(encoded)
    section.profiles[f"{OURS}, {name}"] = shares = native_shares(ways[OURS])
    native = sum(share for function, share in shares.items() if function != "Python")
    parts = ", ".join(f"{function} {share:.0%}" for function, share in shares.items())
    drawn = f"{len(encoded)} pictures of {size[0]} x {size[1]} to {side} x {side}"
    changes = f"{drawn}; each kind of change at the recipe's probability, on the same pixels on both sides."
    options = {"case": name, "items": len(encoded), "goal": "at least"}
    for alternative in (PLAIN, ALBUMENTATIONS):
        if alternative in turns.seconds:
            # What is left if only the libraries' own loops took time.
            limit = turns.ratio(alternative, OURS).median / native
            held_by = f"Of its time: {parts}."
            section.rows.append(
                compare(turns, OURS, alternative, limit=limit, count=changes, held_by=held_by, **options)
            )
    decoding = turns.ratio(DECODER, FROM_FILE).median
    augmenting = turns.ratio(OURS, FROM_FILE).median
    section.rows.append(
        compare(
            turns,
            FROM_FILE,
            PLAIN_FROM_FILE,
            limit=turns.ratio(PLAIN_FROM_FILE, DECODER).median,
            count=f"{drawn}, {sum(map(len, encoded)) / len(encoded):.3g} bytes of JPEG each.",
            held_by=f"Decoding alone is {decoding:.0%} of its time, augmenting {augmenting:.0%}.",
            **options,
        )
    )


def seeded(transform: Callable, images: list) -> list[torch.Tensor]:
    """Tensors of all images, the same at every call."""
    torch.manual_seed(0)
    return [transform(image) for image in images]


def native_shares(work: Callable[[], object], most: int = 7) -> dict[str, float]:
    """Shares of the time by the functions of libraries that take most, and of all Python around them, by cProfile."""
    work()
    profile = cProfile.Profile(time.process_time)
    profile.runcall(work)
    times: dict[str, float] = {}
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        # Functions in C have no file; their names are such as <method 'resize' of 'ImagingCore' objects>.
        name = function.strip("<>").replace("built-in method ", "") if file == "~" else "Python"
        times[name] = times.get(name, 0.0) + own
    whole = sum(times.values())
    native = sorted((name for name in times if name != "Python"), key=lambda name: -times[name])
    shares = {name: round(times[name] / whole, 3) for name in native[:most]}
    shares["other functions in C"] = round(sum(times[name] for name in native[most:]) / whole, 3)
    return shares | {"Python": round(times["Python"] / whole, 3)}


def flops_of_step(dry: bool) -> int:
    """Of a training step of ViT-L/14 on `BATCH` images; nothing is calculated and no weight takes memory."""
    with torch.device("meta"):
        model = make_detector("ViT-L/14", dry).train()
    side = model.config.clip_config.vision_config.image_size

    def step(count: int) -> None:
        images = torch.empty(count, 3, side, side, device="meta")
        labels = torch.empty(count, dtype=torch.long, device="meta")
        model(pixel_values=images, labels=labels).loss.backward()

    return flops_of_batch(step, BATCH)


__all__ = ["run"]
