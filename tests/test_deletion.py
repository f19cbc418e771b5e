"""The deletion test on scores with known answers, and what must not pass it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

from mirage_hf.deletion import DeletionCurves, deletion_test, without

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
PATCH, ROWS, COLUMNS = 4, 3, 5
WEIGHTS = torch.linspace(-1, 2, ROWS * COLUMNS, dtype=torch.float64).view(ROWS, COLUMNS).flip(0)


def score(pixel_values: torch.Tensor) -> np.ndarray:
    """Sum over patches of a weight times the patch's mean level: what a patch adds is known."""
    levels = pixel_values.double().mean(dim=1).unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).mean(dim=(-2, -1))
    return (levels * WEIGHTS).sum(dim=(1, 2)).numpy()


@pytest.fixture
def pixel_values() -> torch.Tensor:
    """Images whose patches have level 1, 2 and 3: evidence is the weights times that."""
    return torch.arange(1.0, 4)[:, None, None, None].expand(3, 3, ROWS * PATCH, COLUMNS * PATCH).clone()


@pytest.fixture
def grid() -> torch.Tensor:
    return WEIGHTS.float().expand(3, -1, -1).clone()


def run(pixel_values, grid, **options):
    options = {"generator": torch.Generator().manual_seed(0), "fill": torch.zeros_like(pixel_values)} | options
    return deletion_test(score, pixel_values, grid, PATCH, **options)


def test_curves_are_what_the_weights_say(pixel_values, grid):
    fractions = (0.02, 0.2, 0.5, 1.0)  # 1 (at least one, of 0.3), 3, 8 (of 7.5, to even) and all 15 patches
    found = run(pixel_values, grid, fractions=fractions, draws=400)
    levels, ordered = np.arange(1, 4), np.sort(WEIGHTS.flatten().numpy())[::-1]
    np.testing.assert_allclose(found.intact, levels * ordered.sum(), atol=1e-5)
    for column, count in enumerate((1, 3, 8, 15)):
        np.testing.assert_allclose(found.hottest[:, column], levels * ordered[count:].sum(), atol=1e-5)
        expected = levels * ordered.sum() * (1 - count / 15)  # any patch is as likely to go
        np.testing.assert_allclose(found.random[:, column], expected, atol=0.25 * levels.max())
    np.testing.assert_allclose(found.random[:, -1], 0, atol=1e-5)
    assert (found.hottest[:, :3] < found.random[:, :3] - 0.5).all()


def test_area_in_closed_form():
    curves = DeletionCurves(
        np.array([0.2, 0.4]), np.array([1.0, 1.0]), np.array([[0.5, 0.2], [0.9, 0.8]]), np.array([[0.9, 0.8]] * 2)
    )
    # 0 at 0, 0.4 at 0.2 and 0.6 at 0.4: (0.2 · 0.4 / 2 + 0.2 · (0.4 + 0.6) / 2) / 0.4
    np.testing.assert_allclose(curves.area, [0.35, 0.0])


def test_coldest_and_shuffled_maps_do_not_pass(pixel_values, grid):
    hottest, coldest = (run(pixel_values, sign * grid, draws=50).area for sign in (1, -1))
    assert (hottest > 0.3).all() and (coldest < -0.3).all()
    areas = []
    for seed in range(30):
        order = torch.randperm(ROWS * COLUMNS, generator=torch.Generator().manual_seed(seed))
        areas.append(run(pixel_values, grid.flatten(1)[:, order].view(grid.shape), draws=20).area[0])
    assert abs(np.mean(areas)) < 0.3 * hottest[0]


def test_squares_that_were_not_looked_at_stay(pixel_values, grid):
    grid[:, 0], fill = torch.nan, torch.zeros_like(pixel_values)
    for order in (grid, torch.rand(grid.shape), -grid):
        gone = without(pixel_values, order, grid, PATCH, 1.0, fill) == 0
        assert not gone[:, :, :PATCH].any() and gone[:, :, PATCH:].all()
    half = without(pixel_values, grid, grid, PATCH, 0.5, fill) == 0
    assert (half.sum(dim=(1, 2, 3)) == 5 * PATCH**2 * 3).all()  # half of the ten that were


def test_ties_go_by_place_and_images_apart(pixel_values, grid):
    grid[0] = 1.0
    gone = without(pixel_values, grid, grid, PATCH, 0.2, torch.zeros_like(pixel_values))[:, 0] == 0
    squares = gone.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).float().mean(dim=(-2, -1))
    assert squares[0].flatten()[:3].tolist() == [1, 1, 1] and squares[0].sum() == 3
    assert squares[1, 0, -3:].tolist() == [1, 1, 1] and squares[1].sum() == 3
    large, flat = torch.ones(1, 3, 100, 100), torch.zeros(1, 100, 100)  # too many for a sort that is stable by chance
    gone = without(large, flat, flat, 1, 0.5, torch.zeros_like(large))[0, 0] == 0
    assert gone[:50].all() and not gone[50:].any()


def test_edges_that_hold_part_of_a_square():
    pixel_values, grid = torch.ones(1, 3, 10, 7), torch.tensor([[[0.0, 1], [0, 0], [0, 2]]])
    gone = without(pixel_values, grid, grid, PATCH, 0.34, torch.zeros_like(pixel_values))[0, 0] == 0
    expected = torch.zeros(10, 7, dtype=torch.bool)
    expected[8:, 4:] = expected[:4, 4:] = True
    assert torch.equal(gone, expected)


def test_mean_colour_takes_their_place_by_default(grid):
    pixel_values = torch.randn(3, 3, ROWS * PATCH, COLUMNS * PATCH)
    seen = []

    def keep(images):
        seen.append(images)
        return np.zeros(len(images))

    deletion_test(keep, pixel_values, grid, PATCH, fractions=(1.0,), draws=1)
    means = pixel_values.mean(dim=(-2, -1), keepdim=True).expand_as(pixel_values)
    torch.testing.assert_close(seen[0], means)
    assert torch.equal(seen[-1], pixel_values)


def test_draws_follow_the_generator(pixel_values, grid):
    first, again, other = (
        run(pixel_values, grid, draws=2, generator=torch.Generator().manual_seed(seed)).random for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and not np.array_equal(first[0], first[1] / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": ()}, "`fractions` must increase"),
        ({"fractions": (0.0, 0.5)}, "`fractions` must increase"),
        ({"fractions": (0.5, 0.2)}, "`fractions` must increase"),
        ({"fractions": (0.5, 1.1)}, "`fractions` must increase"),
        ({"draws": 0}, "`draws` must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range(pixel_values, grid, options, message):
    with pytest.raises(ValueError, match=message):
        run(pixel_values, grid, **options)
    with pytest.raises(ValueError, match=r"`grid` must be of shape \(3, 3, 5\)"):
        run(pixel_values, grid[:, :2])


@pytest.fixture(scope="module")
def stored():
    return json.loads((RESULTS / "deletion_test.json").read_text(encoding="utf-8"))


class TestStored:
    """What `benchmarks/deletion_test.py` left behind."""

    def test_p_follows_from_the_photographs(self, stored):
        row, photographs = stored["test"]["rows"]["hottest"], stored["test"]["area_by_photograph"]
        values = np.array(list(photographs.values()))
        assert len(values) == row["photographs"] == 59 and (values > 0).sum() == row["photographs_above_0"]
        assert values.mean() == pytest.approx(row["area"], abs=1e-4)
        assert wilcoxon(values, alternative="greater").pvalue == pytest.approx(row["p"], rel=0.05)

    def test_area_follows_from_the_curves(self, stored):
        fractions = stored["settings"]["fractions"]
        for row in stored["test"]["rows"].values():
            curves = DeletionCurves(
                np.array(fractions), np.ones(1), *(np.array([row[k]]) for k in ("without_these", "without_random"))
            )
            assert curves.area[0] == pytest.approx(row["area"], abs=2e-3)

    def test_the_map_passes_and_what_must_not_does_not(self, stored):
        rows = stored["test"]["rows"]
        assert rows["hottest"]["p"] < 0.01 < 0.05 < rows["coldest"]["p"]
        assert rows["shuffled"]["p"] > 0.05

    def test_the_shipped_map_is_first_or_close_on_validation(self, stored):
        for fill, rows in stored["validation"]["fills"].items():
            areas = {name: row["area"] for name, row in rows.items()}
            assert areas["contributions"] > 0.93 * max(areas.values()), fill
            assert areas["patches, reversed"] < 0 < areas["patches"] < areas["contributions"]
