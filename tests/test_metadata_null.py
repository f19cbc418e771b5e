"""What the header tells, file format by file format, and what a classifier makes of it."""

import io
import math
import struct
import zipfile

import numpy as np
import pytest
from pictures import random_image
from PIL import Image, PngImagePlugin
from scipy.stats import binom

from mirage_hf import metadata_null as module
from mirage_hf.image_io import UnreadableImage
from mirage_hf.metadata_null import FEATURES, metadata_null, read_metadata


def encoded(image, file_format="JPEG", **options):
    data = io.BytesIO()
    image.save(data, file_format, **options)
    return data.getvalue()


def read(value):
    return dict(zip(FEATURES, read_metadata(value), strict=True))


def flags(features, prefix):
    return [name.removeprefix(prefix) for name, value in features.items() if name.startswith(prefix) and value]


class TestReadMetadata:
    @pytest.mark.parametrize(
        ("file_format", "mode", "formats", "modes"),
        [
            ("JPEG", "RGB", ["JPEG"], ["RGB"]),
            ("JPEG", "L", ["JPEG"], ["L"]),
            ("JPEG", "CMYK", ["JPEG"], ["CMYK"]),
            ("PNG", "RGBA", ["PNG"], ["RGBA"]),
            ("PNG", "P", ["PNG"], ["P"]),
            ("PNG", "LA", ["PNG"], ["other"]),
            ("WEBP", "RGB", ["WEBP"], ["RGB"]),
            ("GIF", "P", ["other"], ["P"]),
            ("BMP", "RGB", ["other"], ["RGB"]),
            ("TIFF", "RGB", ["other"], ["RGB"]),
        ],
    )
    def test_format_mode_and_size(self, file_format, mode, formats, modes):
        data = encoded(random_image(30, 20, mode), file_format)
        features = read(data)
        assert flags(features, "format_") == formats and flags(features, "mode_") == modes
        assert features["log_width"] == math.log(30) and features["log_height"] == math.log(20)
        assert features["log_aspect"] == pytest.approx(math.log(1.5))
        assert features["log_bytes"] == math.log(len(data))
        assert features["log_bytes_per_pixel"] == pytest.approx(math.log(len(data) / 600))
        assert all(map(math.isfinite, features.values()))

    def test_jpeg_of_a_telephone(self):
        frames = [random_image(16, 16, seed=seed) for seed in (0, 1)]
        data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=80)
        assert Image.open(io.BytesIO(data)).format == "MPO"
        features = read(data)
        assert flags(features, "format_") == ["JPEG"] and features["luma_quality"] == 80

    def test_quality_of_libjpeg_tables(self):
        """All hundred are told from each other, but for those whose steps for chroma are all cut off at 255."""
        image = random_image(16, 16)
        for quality in range(1, 101):
            features = read(encoded(image, quality=quality))
            assert features["luma_quality"] == quality
            assert features["chroma_quality"] == (1 if quality <= 3 else quality)
            assert features["luma_deviation"] == features["chroma_deviation"] == 0

    def test_other_tables(self):
        # 8 bits in both: row by row, as Pillow takes and gives them.
        luma, chroma = [16, *[20] * 62, 64], [2] * 64
        features = read(encoded(random_image(16, 16), qtables=[luma, chroma]))
        assert features["luma_lowest_log2"] == 4 and features["luma_highest_log2"] == 6
        assert features["luma_mean_log2"] == pytest.approx((4 + 6 + 62 * math.log2(20)) / 64)
        assert features["chroma_mean_log2"] == features["chroma_lowest_log2"] == features["chroma_highest_log2"] == 1
        assert features["luma_deviation"] > 1 and features["chroma_deviation"] > 0
        # Quality 98 and 99 have steps 1 to 4 and 1 to 2.
        assert features["chroma_quality"] in (98, 99)

    @pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
    def test_chroma_sampling(self, sampling):
        features = read(encoded(random_image(16, 16), subsampling=sampling))
        assert flags(features, "sampling_") == [sampling]

    def test_unusual_chroma_sampling(self):
        data = bytearray(encoded(random_image(16, 16), subsampling="4:2:0"))
        frame = data.index(b"\xff\xc0")
        assert data[frame + 11] == 0x22
        data[frame + 11] = 0x41  # 4:1:1
        assert flags(read(bytes(data)), "sampling_") == ["other"]

    def test_grayscale_has_one_table_and_no_sampling(self):
        features = read(encoded(random_image(16, 16, "L"), quality=70))
        assert features["luma_quality"] == 70 and features["chroma_quality"] == 0
        assert flags(features, "sampling_") == []

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_no_tables_elsewhere(self, file_format):
        features = read(encoded(random_image(16, 16), file_format))
        assert not any(value for name, value in features.items() if name.startswith(("luma", "chroma", "sampling")))

    def test_records(self):
        names = ("progressive", "jfif", "adobe", "exif", "icc_profile", "xmp", "dpi", "text")
        exif = Image.Exif()
        exif[0x0110] = "camera"
        text = PngImagePlugin.PngInfo()
        text.add_text("parameters", "a cat, 30 steps")
        image = random_image(16, 16)
        cases = [
            (encoded(image), {"jfif"}),
            (encoded(image, progressive=True), {"jfif", "progressive"}),
            (encoded(image, exif=exif), {"jfif", "exif", "dpi"}),  # where EXIF gives none, Pillow assumes 72
            (encoded(image, icc_profile=b"profile"), {"jfif", "icc_profile"}),
            (encoded(image, xmp=b"<x/>"), {"jfif", "xmp"}),
            (encoded(image, dpi=(72, 72)), {"jfif", "dpi"}),
            (encoded(image, comment=b"made by hand"), {"jfif", "text"}),
            (encoded(image.convert("CMYK")), {"adobe"}),
            (encoded(image, "PNG"), set()),
            (encoded(image, "PNG", pnginfo=text), {"text"}),
            (encoded(image, "PNG", exif=exif, dpi=(72, 72)), {"exif", "dpi"}),
            (encoded(image, "WEBP", exif=exif, icc_profile=b"profile"), {"exif", "icc_profile"}),
            (encoded(image, "TIFF"), {"dpi"}),  # its `info` holds text of its own, which is none of the file's
        ]
        for data, expected in cases:
            features = read(data)
            assert {name for name in names if features[name]} == expected

    @pytest.mark.parametrize("file_format", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
    def test_no_pixel_is_decoded(self, file_format, monkeypatch):
        data = encoded(random_image(40, 30), file_format)
        expected = read_metadata(data)

        def refuse(*args, **kwargs):
            raise AssertionError("decoded")

        for owner in {Image.Image, *(type(Image.open(io.BytesIO(data))).__mro__[:-1])}:
            if "load" in vars(owner):
                monkeypatch.setattr(owner, "load", refuse)
        with pytest.raises(AssertionError, match="decoded"):
            Image.open(io.BytesIO(data)).load()
        assert (read_metadata(data) == expected).all()

    def test_header_is_enough(self):
        """A JPEG cut off behind its header differs in its byte count only: its pixels were never needed."""
        data = encoded(random_image(200, 200))
        whole, cut = read(data), read(data[:1000])
        assert {name for name in FEATURES if whole[name] != cut[name]} == {"log_bytes", "log_bytes_per_pixel"}

    def test_every_kind_of_value(self, tmp_path):
        data = encoded(random_image(16, 16))
        path = tmp_path / "a.jpg"
        path.write_bytes(data)
        renamed = tmp_path / "b.png"  # the name is no feature
        renamed.write_bytes(data)
        with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
            archive.writestr("inside/a.JPEG", data)
        member = f"zip://inside/a.JPEG::{tmp_path / 'c.zip'}"
        expected = read_metadata(data)
        assert expected.shape == (len(FEATURES),) and expected.dtype == np.float64
        for value in (path, str(path), renamed, member, {"bytes": data, "path": None}, {"path": member}):
            assert (read_metadata(value) == expected).all()

    def test_unreadable(self, tmp_path):
        bomb = encoded(Image.new("1", (8, 8)), "PNG")
        bomb = bomb.replace(struct.pack(">II", 8, 8), struct.pack(">II", 9_000, 10_000))
        cases = {
            "empty file": b"",
            "not an image": b"<html>not found</html>",
            "No such file": str(tmp_path / "none.jpg"),
            "holds no image but NoneType": {"bytes": None, "path": None},
            "cannot be unpacked|not a readable zip": f"zip://a.jpg::{tmp_path / 'none.zip'}",
            "more elongated than 20:1": encoded(Image.new("L", (1, 300)), "PNG"),
            "bad header checksum": bomb,
        }
        for reason, value in cases.items():
            with pytest.raises(UnreadableImage, match=reason):
                read_metadata(value)


def naive_balanced_accuracy(called, labels):
    return sum((called[labels == label] == label).mean() for label in (0, 1)) / 2


class TestMetadataNull:
    def test_finds_an_interaction(self):
        """The label is whether format and size agree: neither tells anything alone, and no linear rule would do."""
        rng = np.random.default_rng(0)
        png, large = rng.integers(0, 2, (2, 200))
        null = metadata_null(np.stack([png, large, rng.normal(size=200)], axis=1), png == large)
        assert null["balanced_accuracy"] > 0.98 and null["roc_auc"] > 0.98 and null["n"] == 200
        alone = metadata_null(np.stack([png, rng.normal(size=200)], axis=1), png == large)
        assert alone["balanced_accuracy"] < 0.6

    def test_finds_a_band(self):
        """Fakes are of one size in the middle of the reals' range."""
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, 400)
        width = np.where(labels == 1, 512, rng.integers(300, 800, 400))
        assert metadata_null(np.log(width)[:, None], labels)["balanced_accuracy"] > 0.95

    def test_chance(self):
        rng = np.random.default_rng(1)
        null = metadata_null(rng.normal(size=(600, 3)), rng.integers(0, 2, 600))
        assert null["interval"][0] < 0.5 < null["interval"][1]
        assert abs(null["balanced_accuracy"] - 0.5) < 0.05 and abs(null["roc_auc"] - 0.5) < 0.05

    def test_constant_features_are_chance_whatever_the_classes(self):
        null = metadata_null(np.ones((130, 4)), [0] * 100 + [1] * 30)
        assert null["balanced_accuracy"] == pytest.approx(0.5, abs=0.02)

    def test_classes_weigh_equally(self):
        """
        300 reals and 30 fakes; 60 of the reals and 20 of the fakes are PNG. Counted row by row, PNG too would mean
        real; with classes weighing equally it means fake, right for 2/3 of the fakes and 4/5 of the reals.
        """
        png = np.array(([1] + [0] * 4) * 60 + [1, 1, 0] * 10)[:, None]
        labels = np.array([0] * 300 + [1] * 30)
        null = metadata_null(png, labels)
        assert null["balanced_accuracy"] == pytest.approx((2 / 3 + 4 / 5) / 2)

    def test_numbers_are_those_of_the_pooled_predictions(self, monkeypatch):
        """Recomputed naively from out-of-fold scores of classifiers of one's own, fold by fold."""
        rng = np.random.default_rng(2)
        labels = rng.permutation(np.arange(90) % 3 == 0).astype(int)
        features = rng.normal(size=(90, 3)) + labels[:, None]
        seen = []

        class Recorder:
            def __init__(self, **options):
                assert options["class_weight"] == "balanced"

            def fit(self, rows, targets):
                self.rows = {row.tobytes() for row in rows}
                assert targets.sum() == 24 and len(targets) == 72  # stratified: four fifths of 30 and of 60
                return self

            def predict_proba(self, rows):
                assert not self.rows & {row.tobytes() for row in rows}
                seen.extend(row.tobytes() for row in rows)
                fake = 1 / (1 + np.exp(-(rows[:, 0] - 0.5)))
                return np.stack([1 - fake, fake], axis=1)

        monkeypatch.setattr("sklearn.ensemble.HistGradientBoostingClassifier", Recorder)
        null = metadata_null(features, labels)
        assert sorted(seen) == sorted(row.tobytes() for row in features)  # each once
        assert null["balanced_accuracy"] == pytest.approx(naive_balanced_accuracy(features[:, 0] > 0.5, labels))
        pairs = [(f, r) for f in features[labels == 1, 0] for r in features[labels == 0, 0]]
        assert null["roc_auc"] == pytest.approx(np.mean([f > r for f, r in pairs]))

    def test_deterministic(self):
        rng = np.random.default_rng(3)
        features, labels = rng.normal(size=(60, 2)), rng.integers(0, 2, 60)
        assert metadata_null(features, labels) == metadata_null(features.tolist(), list(labels))
        assert metadata_null(features, labels, seed=1) != metadata_null(features, labels)

    @pytest.mark.parametrize(("n_real", "n_fake"), [(0, 50), (9, 50), (50, 0), (50, 9)])
    def test_too_few_images(self, n_real, n_fake):
        n = n_real + n_fake
        null = metadata_null(np.arange(float(n))[:, None], [0] * n_real + [1] * n_fake)
        assert null == {"balanced_accuracy": None, "interval": None, "roc_auc": None, "n": n}

    def test_ten_of_each_are_enough(self):
        null = metadata_null(np.arange(20.0)[:, None], [0] * 10 + [1] * 10)
        assert null["balanced_accuracy"] >= 0.9 and null["n"] == 20

    def test_no_rows(self):
        assert metadata_null(np.empty((0, len(FEATURES))), [])["balanced_accuracy"] is None

    @pytest.mark.parametrize(
        ("features", "labels", "message"),
        [
            ([1.0, 2.0], [0, 1], "`features` must have shape"),
            ([[1.0], [math.nan]], [0, 1], "`features` is not finite in row 1"),
            ([[1.0], [2.0]], [0], "`labels` must have shape"),
            ([[1.0], [2.0]], [0, 2], "`labels` must be 0 .* got 2 in row 1"),
            ([[1.0], [2.0]], [0, -1], "`labels` must be 0"),
        ],
    )
    def test_bad_arguments(self, features, labels, message):
        with pytest.raises(ValueError, match=message):
            metadata_null(features, labels)


class TestInterval:
    @pytest.mark.parametrize(("n_real", "n_fake", "p_real", "p_fake"), [(30, 30, 0.5, 0.5), (80, 20, 0.9, 0.7)])
    def test_coverage_worked_out_exactly(self, n_real, n_fake, p_real, p_fake):
        """The probability that the interval holds the truth, summed over every pair of outcomes, is near 95%."""
        truth, covered = (p_real + p_fake) / 2, 0.0
        for real_hits in range(n_real + 1):
            for fake_hits in range(n_fake + 1):
                counts = np.array([n_real, n_fake])
                low, high = module._balanced_accuracy_interval(np.array([real_hits, fake_hits]), counts)
                assert 0 <= low <= (real_hits / n_real + fake_hits / n_fake) / 2 <= high <= 1
                if low <= truth <= high:
                    covered += binom.pmf(real_hits, n_real, p_real) * binom.pmf(fake_hits, n_fake, p_fake)
        assert 0.94 < covered < 0.965

    def test_one_sided_outcomes_keep_a_width(self):
        counts = np.array([50, 50])
        low, high = module._balanced_accuracy_interval(counts, counts)
        # Wilson's lower limit of 50 in 50 is n / (n + z^2); the two distances add as squares, halved.
        assert high == 1 and low == pytest.approx(1 - (1 - 50 / (50 + 1.959964**2)) / math.sqrt(2))

    def test_narrows_with_the_square_root(self):
        widths = []
        for n in (100, 10_000):
            low, high = module._balanced_accuracy_interval(np.array([n // 2, n // 2]), np.array([n, n]))
            widths.append(high - low)
        assert widths[1] == pytest.approx(widths[0] / 10, rel=0.02)
        assert widths[1] == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 20_000), rel=0.01)
