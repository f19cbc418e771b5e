"""The aligned view: its files by definition, and what the metadata-only null still finds on them."""

import io

import numpy as np
import pytest
from pictures import random_image
from PIL import Image

from mirage_hf.alignment import FormatAlignment
from mirage_hf.image_io import load_rgb
from mirage_hf.metadata_null import FEATURES, metadata_null, read_metadata

BICUBIC = Image.Resampling.BICUBIC
BYTES = {"log_bytes", "log_bytes_per_pixel"}


def encoded(image, file_format, **options):
    data = io.BytesIO()
    image.save(data, file_format, **options)
    return data.getvalue()


def as_jpeg(pixels, quality=80):
    return encoded(Image.fromarray(pixels), "JPEG", quality=quality, subsampling=2)


def smooth_image(width, height):
    return random_image(7, 6).resize((width, height), BICUBIC)


class TestFormatAlignment:
    def test_defaults(self):
        assert FormatAlignment() == FormatAlignment(size=256, geometry="resize", quality=80)

    @pytest.mark.parametrize(
        ("size", "resized", "corner"),
        [
            ((90, 70), (41, 32), (4, 0)),  # 90 x 32 / 70 = 41.14
            ((33, 47), (32, 45), (0, 6)),  # 45.6, cut off
            ((20, 15), (42, 32), (5, 0)),  # enlarged: 42.7
            ((32, 32), (32, 32), (0, 0)),
            ((1, 3), (32, 96), (0, 32)),
        ],
    )
    def test_resize(self, size, resized, corner):
        image = smooth_image(*size)
        left, top = corner
        pixels = np.asarray(image.resize(resized, BICUBIC))[top : top + 32, left : left + 32]
        aligned = FormatAlignment(size=32).encode(image)
        assert aligned == as_jpeg(pixels)
        for other in (as_jpeg(pixels, 79), encoded(Image.fromarray(pixels), "JPEG", quality=80, subsampling=0)):
            assert aligned != other

    def test_crop(self):
        pixels = np.asarray(random_image(91, 70))
        aligned = FormatAlignment(size=32, geometry="crop", quality=96).encode(Image.fromarray(pixels))
        assert aligned == as_jpeg(pixels[19:51, 29:61], quality=96)
        assert aligned != as_jpeg(pixels[19:51, 30:62], quality=96)

    @pytest.mark.parametrize("size", [(20, 40), (40, 20), (9, 7), (5, 3), (32, 31)])
    def test_crop_reflects_borders_of_small_images(self, size):
        """Without repeating the edge pixel: ... 2 1 | 0 1 2 | 1 0 1 2 ..."""
        pixels = np.asarray(smooth_image(*size))

        def place(at, length):  # in the image, of row or column `at` of the 32
            before = (32 - length) // 2  # negative where the image is larger: then a plain crop
            at = at + (length - 32) // 2 if length > 32 else at - before
            at %= 2 * (length - 1)
            return min(at, 2 * (length - 1) - at)

        rows = [place(at, size[1]) for at in range(32)]
        columns = [place(at, size[0]) for at in range(32)]
        aligned = FormatAlignment(size=32, geometry="crop").encode(Image.fromarray(pixels))
        assert aligned == as_jpeg(np.ascontiguousarray(pixels[rows][:, columns]))

    @pytest.mark.parametrize("geometry", ["resize", "crop"])
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK"])
    @pytest.mark.parametrize("size", [(1, 1), (1, 50), (301, 257)])
    def test_call_decodes_what_encode_gives(self, geometry, mode, size):
        alignment = FormatAlignment(size=40, geometry=geometry)
        image = random_image(*size, mode=mode)
        before = image.tobytes()
        aligned = alignment(image)
        assert (aligned.size, aligned.mode) == ((40, 40), "RGB")
        assert (
            np.asarray(aligned) == np.asarray(Image.open(io.BytesIO(alignment.encode(image))).convert("RGB"))
        ).all()
        assert alignment.encode(image.copy()) == alignment.encode(image) and image.tobytes() == before

    def test_formats_of_equal_pixels_become_equal_files(self):
        image = random_image(60, 50)
        exif = Image.Exif()
        exif[0x0110] = "camera"
        records = {"exif": exif, "icc_profile": b"profile", "dpi": (300, 300)}
        files = [
            encoded(image, "PNG"),
            encoded(image, "PNG", **records),
            encoded(image, "BMP"),
            encoded(image, "TIFF", dpi=(300, 300)),
            encoded(image, "WEBP", lossless=True, exif=exif, icc_profile=b"profile"),
        ]
        assert len({FormatAlignment(size=32).encode(load_rgb(data)) for data in files}) == 1

    def test_no_record_survives(self):
        """Pillow's JPEG encoder copies a comment from the image, so a test with one is needed."""
        image = smooth_image(60, 50)
        exif = Image.Exif()
        exif[0x0110] = "camera"
        records = {"comment": b"by hand", "exif": exif, "icc_profile": b"profile", "xmp": b"<x/>", "dpi": (300, 300)}
        source = encoded(image, "JPEG", progressive=True, subsampling=0, **records)
        assert b"by hand" in encoded(load_rgb(source), "JPEG")  # what it would be without a new image
        features = dict(zip(FEATURES, read_metadata(FormatAlignment(size=32).encode(load_rgb(source))), strict=True))
        left = {name for name in ("progressive", "exif", "icc_profile", "xmp", "dpi", "text") if features[name]}
        assert left == set()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *[("size", value) for value in (0, -1, 65_501, 256.0, "256", True, None)],
            *[("quality", value) for value in (0, 101, 80.0, True)],
            *[("geometry", value) for value in ("squash", "Resize", None)],
        ],
    )
    def test_bad_fields_are_named(self, field, value):
        with pytest.raises(ValueError, match=f"`{field}` must be"):
            FormatAlignment(**{field: value})


def scene(side, rng):
    """A picture with a photograph's spectrum (amplitude as 1/f), edges of shapes and a little sensor noise."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    fields = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(3, side, side))) / frequency, s=(side, side))
    luma, warm, green = (field / field.std() for field in fields)  # (S, S) each
    pixels = np.stack([luma + 0.3 * warm, luma + 0.3 * green, luma - 0.3 * warm], axis=-1) * 35 + 128
    y, x = np.mgrid[:side, :side]
    for _ in range(20):
        angle, ratio, radius = rng.uniform(0, np.pi), rng.uniform(1, 2), rng.uniform(side / 40, side / 8)
        across, along = x - rng.uniform(0, side), y - rng.uniform(0, side)
        turned = across * np.cos(angle) + along * np.sin(angle), along * np.cos(angle) - across * np.sin(angle)
        shape = turned[0] ** 2 + (ratio * turned[1]) ** 2 < radius**2
        pixels[shape] = pixels[shape] * rng.uniform(0.2, 1) + rng.normal(0, 50, 3)
    pixels += rng.normal(0, rng.uniform(0, 4), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def biased_files(n, side, seed=0):
    """
    Files whose format gives their label away, and whose content doesn't: "fakes" are PNG of `side` x `side`, "reals"
    JPEG of quality 75 to 95 and of 0.8 to 1.25 of that size. All are views of the same scenes, drawn alike.
    """
    rng = np.random.default_rng(seed)
    scenes = [scene(5 * side // 2, rng) for _ in range(12)]
    labels = rng.permutation(np.arange(n) % 2)
    files = []
    for label in labels:
        source = scenes[rng.integers(len(scenes))]
        window = rng.integers(5 * side // 4, 2 * side)
        left, top = rng.integers(0, source.width - window, 2)
        real_side, quality = rng.integers(4 * side // 5, 5 * side // 4), rng.integers(75, 96)
        target = side if label else int(real_side)
        view = source.resize((target, target), BICUBIC, box=(left, top, left + window, top + window))
        if label:
            files.append(encoded(view, "PNG", compress_level=1))
        else:
            files.append(encoded(view, "JPEG", quality=int(quality)))
    return files, labels


def null_after(encode, files, labels):
    features = np.stack([read_metadata(encode(data)) for data in files])
    varying = {name for name, column in zip(FEATURES, features.T, strict=True) if np.ptp(column) > 0}
    return metadata_null(features, labels), varying


def saved_again(data):
    image = Image.open(io.BytesIO(data))
    return encoded(image, image.format, **({"quality": "keep"} if image.format == "JPEG" else {}))


class TestWhatIsLeft:
    """The null before and after alignment; byte counts of aligned files are among its features."""

    def check(self, files, labels, alignment):
        null, varying = null_after(lambda data: alignment.encode(load_rgb(data)), files, labels)
        assert varying == BYTES  # all else is the same for every image
        assert abs(null["balanced_accuracy"] - 0.5) <= 0.03, null
        assert null["interval"][0] < 0.5 < null["interval"][1]

    def test_at_chance_after_alignment_only(self):
        """At a quarter of the default size, on pictures that are smaller likewise, for speed; quality by default."""
        files, labels = biased_files(1200, 96)
        raw, varying = null_after(lambda data: data, files, labels)
        assert raw["balanced_accuracy"] > 0.95 and varying > BYTES
        self.check(files, labels, FormatAlignment(size=64))
        # The byte count could tell: it does at quality 96, which keeps what a former compression left out.
        keeping = FormatAlignment(size=64, quality=96)
        leaking, varying = null_after(lambda data: keeping.encode(load_rgb(data)), files, labels)
        assert varying == BYTES and leaking["balanced_accuracy"] > 0.6 and leaking["interval"][0] > 0.55

    def test_saving_again_aligns_nothing(self):
        """Negative control: the identity, each file saved again in its own format."""
        files, labels = biased_files(200, 64)
        null, _ = null_after(saved_again, files, labels)
        assert null["balanced_accuracy"] > 0.95

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", [1, 2])
    def test_at_chance_at_full_size(self, seed):
        files, labels = biased_files(1500, 384, seed)
        assert null_after(lambda data: data, files, labels)[0]["balanced_accuracy"] > 0.95
        self.check(files, labels, FormatAlignment())
