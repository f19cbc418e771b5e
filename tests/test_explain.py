"""Explanations: the detector's own score, laid on the pixels that it came from, with its warning attached."""

import io

import numpy as np
import pytest
import torch
from brightness import brightness_detector
from conftest import make_model
from PIL import Image

from mirage_hf import Detector
from mirage_hf.detection import Preparer
from mirage_hf.explain import explain, lay_on_image
from mirage_hf.explain_picture import CAPTION, draw_overlay, strongest
from mirage_hf.fused_transform import FusedTransform
from mirage_hf.image_io import UnreadableImage
from mirage_hf.image_processing import EvalTransform, build_image_processor
from mirage_hf.torch_margins import TorchMargins

SIDE, PATCH = 32, 8


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_detector(
    image_size=SIDE, geometry="crop", calibration=None, model=None, dtype="float32", **kwargs
) -> Detector:
    loaded = brightness_detector()
    loaded.model = make_model(**kwargs).bake() if model is None else model
    transform = FusedTransform(build_image_processor(image_size, geometry))
    return Detector(TorchMargins(loaded, "cpu", dtype), Preparer(transform), "tiny", "1", calibration=calibration)


class TestScore:
    @pytest.mark.parametrize(
        ("kwargs", "bound"),
        [({}, 1e-6), ({"image_size": 48, "tile_images": True}, 1e-6), ({"dtype": "bfloat16"}, 1e-3)],
    )
    def test_is_the_detector_s(self, kwargs, bound):
        detector = make_detector(**kwargs)
        scores = []
        for seed in range(3):
            image = picture(50, 41, seed)
            explanation, detection = explain(detector, image), detector.score(image)
            assert explanation.p_fake == pytest.approx(detection.p_fake, abs=bound)
            assert (explanation.label, explanation.verdict) == (detection.label, detection.verdict)
            assert explanation.threshold == detection.threshold
            scores.append(explanation.p_fake)
        assert len(set(scores)) == 3

    def test_is_calibrated_where_the_detector_is(self):
        class Shifted:
            id, unsure_low, unsure_high = "1", 0.1, 0.95

            def probability(self, margins):
                return 1 / (1 + np.exp(-margins - 1))

        plain, calibrated = make_detector(), make_detector(calibration=Shifted())
        found = explain(calibrated, picture(40, 40))
        assert found.verdict == "unsure" and found.label == "fake"
        assert found.p_fake == pytest.approx(calibrated.score(picture(40, 40)).p_fake, abs=1e-6)
        assert found.p_fake > explain(plain, picture(40, 40)).p_fake + 0.1

    def test_other_sources_give_the_same(self, tmp_path):
        detector, image = make_detector(), picture(40, 40)
        image.save(tmp_path / "a.png")
        expected = explain(detector, image)
        for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), np.asarray(image)):
            np.testing.assert_array_equal(explain(detector, source).heatmap, expected.heatmap)

    def test_what_can_t_be_explained_is_refused(self, tmp_path):
        detector = make_detector()
        for source, reason in (
            (tmp_path / "none.png", "No such file"),
            (b"text", "not an image"),
            (picture(9, 9), "9x9"),
        ):
            with pytest.raises(UnreadableImage, match=reason):
                explain(detector, source)
        detector.preparer.transform = EvalTransform(build_image_processor(SIDE))
        with pytest.raises(ValueError, match="can't be laid on the image"):
            explain(detector, picture(40, 40))
        detector.margins = lambda pixel_values: np.zeros(len(pixel_values))
        with pytest.raises(ValueError, match="needs the torch backend"):
            explain(detector, picture(40, 40))
        with pytest.raises(ValueError, match="no CLIP vision encoder"):
            explain(make_detector(model=brightness_detector().model), picture(40, 40))

    def test_an_answer_that_is_no_number(self):
        model = make_model().bake()
        model.clip.logit_scale.data.fill_(torch.nan)
        with pytest.raises(FloatingPointError, match="not finite"):
            explain(make_detector(model=model), picture(40, 40))


class TestGeometry:
    @pytest.mark.parametrize("geometry", ["crop", "resize"])
    @pytest.mark.parametrize("size", [(32, 32), (50, 41), (41, 50), (31, 47), (20, 17), (33, 90), (320, 200)])
    def test_against_light_sent_through_the_processor(self, geometry, size):
        """A bright square on black is looked for in `pixel_values`; the map there has to be the map at the square."""
        transform = FusedTransform(build_image_processor(SIDE, geometry, (0, 0, 0), (1, 1, 1)))
        places = np.arange(SIDE**2).reshape(SIDE, SIDE).astype(np.float64)
        heatmap, (left, top, right, lower) = lay_on_image(places, 1, (SIDE, SIDE), transform, size)
        assert heatmap.shape == size[::-1] and heatmap.dtype == np.float32
        inside = np.zeros(size[::-1], dtype=bool)
        inside[top:lower, left:right] = True
        np.testing.assert_array_equal(np.isfinite(heatmap), inside)
        enlarged = SIDE / min(size) if geometry == "resize" else 1
        half = max(0, round(2 / enlarged))  # pixels on each side of the square's centre
        random = np.random.default_rng(0)
        seen = 0
        for _ in range(40):
            # Not far from what is looked at, or few would fall on it.
            x, y = (
                random.integers(max(half, low - 5), min(length - half, high + 5))
                for low, high, length in ((left, right, size[0]), (top, lower, size[1]))
            )
            light = np.zeros((*size[::-1], 3), dtype=np.uint8)
            light[y - half : y + half + 1, x - half : x + half + 1] = 255
            found = transform(Image.fromarray(light))[0].numpy()
            total = found.sum()
            if not np.isfinite(heatmap[y, x]):
                assert total < 0.75 * (2 * half + 1) ** 2 * enlarged**2  # cut off, or half of it
                continue
            rim = [found[0].max(), found[-1].max(), found[:, 0].max(), found[:, -1].max()]
            if geometry == "resize" and max(rim) > 0:
                continue  # cut by the crop's edge: its centre is not the square's
            seen += 1
            rows, columns = np.indices(found.shape)
            centre = (found * rows).sum() / total, (found * columns).sum() / total
            mapped = divmod(float(heatmap[y, x]), SIDE)
            if geometry == "crop":
                assert (0, 0) == pytest.approx((centre[0] - mapped[0], centre[1] - mapped[1])) or max(rim) > 0
            else:
                assert abs(centre[0] - mapped[0]) <= 0.8 and abs(centre[1] - mapped[1]) <= 0.8
        assert seen > 5

    def test_crop_in_numbers(self):
        explanation = explain(make_detector(), picture(50, 41))
        assert explanation.box == (9, 4, 41, 36) and explanation.patch_evidence.shape == (4, 4)
        blocks = explanation.patch_evidence.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
        np.testing.assert_array_equal(explanation.heatmap[4:36, 9:41], blocks)
        assert np.isnan(explanation.heatmap).sum() == 50 * 41 - SIDE**2

    def test_a_smaller_image_is_seen_whole_and_its_border_of_black_is_not_shown(self):
        explanation = explain(make_detector(), picture(20, 18))
        assert explanation.box == (0, 0, 20, 18) and np.isfinite(explanation.heatmap).all()
        np.testing.assert_array_equal(
            explanation.heatmap[:1, :2], explanation.patch_evidence[:1, :1].repeat(2, axis=1)
        )
        assert explanation.heatmap[1, 2] == explanation.patch_evidence[1, 1]

    def test_tiles_are_joined(self):
        explanation = explain(make_detector(image_size=64, tile_images=True), picture(70, 64))
        assert explanation.box == (3, 0, 67, 64) and explanation.patch_evidence.shape == (8, 8)
        blocks = explanation.patch_evidence.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
        np.testing.assert_array_equal(explanation.heatmap[:, 3:67], blocks)
        assert len(np.unique(explanation.patch_evidence)) == 64

    def test_the_map_lies_on_the_upright_image(self):
        stored = picture(60, 40)
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        stored.save(file, "PNG", exif=exif)
        found = explain(make_detector(), file.getvalue())
        upright = explain(make_detector(), stored.transpose(Image.Transpose.ROTATE_270))
        assert found.heatmap.shape == (60, 40) and found.box == (4, 14, 36, 46)
        np.testing.assert_array_equal(found.heatmap, upright.heatmap)
        assert not np.array_equal(found.patch_evidence, explain(make_detector(), stored).patch_evidence)


class TestPicture:
    def test_colours_say_what_the_map_says(self):
        heatmap = np.zeros((400, 400), dtype=np.float32)
        heatmap[:100, :100], heatmap[:100, 100:200], heatmap[300:] = 1, -1, np.nan
        page = np.asarray(draw_overlay(Image.new("RGB", (400, 400), (128, 128, 128)), heatmap, "title")).astype(int)
        fake, real, none, outside = page[50, 50], page[50, 150], page[250, 250], page[300:400, :400]
        assert fake[0] > fake[2] + 80 and real[2] > real[0] + 80
        assert len(set(none.tolist())) == 1 and (outside.max(axis=-1) == outside.min(axis=-1)).all()
        # Without colours: outlined and darker for fake, lighter for real, two levels of hatching where none looked.
        assert (page[0, :100] == 0).all() and (page[:100, 0] == 0).all() and not (page[50, 101:200] == 0).any()
        levels = page @ np.array([0.299, 0.587, 0.114])
        assert levels[50, 50] < levels[50, 150] and len(np.unique(outside)) == 2
        assert (page[400:] < 128).any()  # the legend

    def test_outlines_are_for_fake_alone(self):
        heatmap = np.full((400, 400), -1, dtype=np.float32)
        page = np.asarray(draw_overlay(Image.new("RGB", (400, 400), "white"), heatmap, ""))
        assert not (page[:400, :400] == 0).all(axis=-1).any()

    @pytest.mark.parametrize(("size", "expected"), [((40, 20), (360, 180)), ((500, 300), (500, 300))])
    def test_sizes(self, size, expected):
        page = draw_overlay(picture(*size), np.zeros(size[::-1], dtype=np.float32), "title")
        assert page.width >= expected[0] and page.height > expected[1]
        top = np.asarray(page)[: expected[1], : expected[0]]
        gray = np.asarray(picture(*size).resize(expected, Image.Resampling.NEAREST).convert("L"))
        np.testing.assert_allclose(top[..., 0], 64 + gray * 0.625, atol=0.5)

    def test_a_large_image_is_shrunk(self):
        page = draw_overlay(Image.new("RGB", (4096, 256)), np.zeros((256, 4096), dtype=np.float32), "title")
        assert page.width == 2048 and page.height < 128 + 200

    def test_one_patch_does_not_make_the_others_pale(self):
        heatmap = np.ones((100, 100), dtype=np.float32)
        heatmap[0, 0], heatmap[1, 1] = -50, np.nan
        assert strongest(heatmap) == pytest.approx(1)
        assert strongest(np.zeros((2, 2))) == 0 and strongest(np.eye(100)) == 1

    def test_files_carry_the_warning(self, tmp_path):
        image = picture(50, 41)
        explanation = explain(make_detector(), image)
        explanation.save(tmp_path / "a.png", image)
        with Image.open(tmp_path / "a.png") as saved:
            assert saved.text["Description"].endswith(f"{CAPTION}.") and CAPTION == "where the model looked, not proof"
            assert float(saved.text["p_fake"]) == pytest.approx(explanation.p_fake, abs=1e-6)
            np.testing.assert_array_equal(np.asarray(saved), np.asarray(explanation.overlay(image)))
        assert np.asarray(explanation.overlay(image)).std() > 0
        with pytest.raises(ValueError, match="the map is of 50 x 41 pixels, the image of 41 x 50"):
            explanation.overlay(picture(41, 50))
