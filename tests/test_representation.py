"""Intra-class variation and inter-class separation against closed forms, a loop, and optimal transport."""

import itertools
import math

import numpy as np
import pytest
import torch

from mirage_hf import representation
from mirage_hf.representation import representation_distances, representation_statistics


def unit(rows):
    return torch.nn.functional.normalize(torch.as_tensor(rows, dtype=torch.float32), dim=-1)


def test_statistics_in_closed_form():
    anchors = torch.eye(2)
    # Real images on their anchor; fake ones on the real anchor (distance sqrt 2) and opposite their own (distance 2).
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    statistics = representation_statistics(images, torch.tensor([0, 0, 1, 1]), anchors)
    assert statistics["real_variation"].item() == 0.0
    assert statistics["fake_variation"].item() == pytest.approx((math.sqrt(2) + 2) / 2)
    assert statistics["intra_class_variation"].item() == statistics["fake_variation"].item()
    # Means (1, 0) and (0.5, -0.5).
    assert statistics["inter_class_separation"].item() == pytest.approx(math.sqrt(0.5))
    by_generator = representation_statistics(images, torch.tensor([0, 0, 1, 1]), anchors, torch.tensor([0, 1, 0, 1]))
    assert by_generator["intra_class_variation"].item() == pytest.approx(2.0)  # the fakes of b
    assert by_generator["fake_variation"].item() == statistics["fake_variation"].item()


def test_statistics_equal_a_naive_loop():
    generator = torch.Generator().manual_seed(0)
    images, anchors = unit(torch.randn(40, 8, generator=generator)), unit(torch.randn(2, 8, generator=generator))
    labels = torch.randint(0, 2, (40,), generator=generator)
    sources = torch.randint(0, 4, (40,), generator=generator)
    statistics = representation_statistics(images, labels, anchors, sources)
    groups, members = {}, {0: [], 1: []}
    for image, label, source in zip(images, labels.tolist(), sources.tolist(), strict=True):
        distance = math.dist(image.tolist(), anchors[label].tolist())
        groups.setdefault((label, source), []).append(distance)
        members[label].append(image)
    for label, name in enumerate(("real", "fake")):
        distances = [d for key, values in groups.items() if key[0] == label for d in values]
        assert statistics[f"{name}_variation"].item() == pytest.approx(np.mean(distances), abs=1e-5)
    assert statistics["intra_class_variation"].item() == pytest.approx(max(map(np.mean, groups.values())), abs=1e-5)
    means = [torch.stack(members[label]).mean(0) for label in (0, 1)]
    assert statistics["inter_class_separation"].item() == pytest.approx((means[0] - means[1]).norm().item(), abs=1e-5)


def test_variation_is_the_wasserstein_distance_to_a_dirac():
    ot = pytest.importorskip("scipy.optimize")
    images, anchor = unit(torch.randn(6, 4, generator=torch.Generator().manual_seed(1))), torch.eye(4)[:1]
    cost = torch.cdist(images, anchor).numpy().ravel()
    # Optimal transport as a linear programme: six sources of mass 1/6, one sink of mass 1.
    plan = ot.linprog(cost, A_eq=np.vstack([np.eye(6), np.ones(6)]), b_eq=[1 / 6] * 6 + [1.0])
    statistics = representation_statistics(images, torch.zeros(6, dtype=torch.long), torch.eye(4)[:2])
    assert statistics["real_variation"].item() == pytest.approx(plan.fun, abs=1e-5)


@pytest.mark.parametrize(("label", "present", "missing"), [(0, "real", "fake"), (1, "fake", "real")])
def test_what_a_missing_class_undoes_is_nan(label, present, missing):
    images = unit(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    statistics = representation_statistics(images, torch.full((5,), label), torch.eye(4)[:2])
    assert statistics[f"{present}_variation"] == statistics["intra_class_variation"] > 0
    assert statistics[f"{missing}_variation"].isnan() and statistics["inter_class_separation"].isnan()
    nothing = representation_statistics(images[:0], torch.zeros(0, dtype=torch.long), torch.eye(4)[:2])
    assert all(value.isnan() for value in nothing.values())


def test_statistics_are_float32_and_carry_no_gradient():
    images = unit(torch.randn(6, 4)).requires_grad_()
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    full = representation_statistics(images, labels, torch.eye(4)[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = representation_statistics(images, labels, torch.eye(4)[:2])
    for key, value in full.items():
        assert value.dtype == torch.float32 and value.ndim == 0 and not value.requires_grad
        assert torch.equal(value, under_autocast[key])
    half = representation_statistics(images.bfloat16(), labels, torch.eye(4)[:2].bfloat16())
    assert half["intra_class_variation"].dtype == torch.float32


def test_statistics_name_a_bad_argument():
    images, labels, anchors = torch.eye(4), torch.tensor([0, 1, 0, 1]), torch.eye(4)[:2]
    with pytest.raises(ValueError, match="`text_embeds`"):
        representation_statistics(images, labels, torch.eye(4))
    with pytest.raises(ValueError, match="`labels`"):
        representation_statistics(images, labels[:3], anchors)


# ------------------------------------------------------------------------------------------------- several distances

ANCHORS = torch.eye(4)[:2]
DISTANCES = ["euclidean", "wasserstein", "energy", "mmd", "cosine"]
KEYS = ["real_variation", "fake_variation", "intra_class_variation", "inter_class_separation"]


def make_classes(seed=0, n_real=9, n_fake=9, noise=0.4):
    """Images around their anchors, with labels and distribution ids."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0] * n_real + [1] * n_fake)
    images = unit(ANCHORS[labels] + noise * torch.randn(len(labels), 4, generator=generator))
    return images, labels, torch.randint(0, 3, (len(labels),), generator=generator)


def mean_of(function, first, second):
    return sum(function(a.tolist(), b.tolist()) for a in first for b in second) / (len(first) * len(second))


def naive_energy(first, second):
    across, *within = (mean_of(math.dist, a, b) for a, b in ((first, second), (first, first), (second, second)))
    return math.sqrt(2 * across - sum(within))


def naive_mmd(first, second, bandwidth):
    def kernel(a, b):
        return math.exp(-(math.dist(a, b) ** 2) / (2 * bandwidth**2))

    across, *within = (mean_of(kernel, a, b) for a, b in ((first, second), (first, first), (second, second)))
    return math.sqrt(sum(within) - 2 * across)


def naive_cosine(a, b):
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_distances_equal_naive_loops():
    images, labels, sources = make_classes(n_fake=6)
    found = representation_distances(images, labels, ANCHORS, sources)
    assert list(found) == DISTANCES and all(list(values) == KEYS for values in found.values())
    real, fake = images[labels == 0], images[labels == 1]
    bandwidth = float(np.median([math.dist(a.tolist(), b.tolist()) for a in real for b in fake]))
    for distance, function in {
        "euclidean": lambda rows, anchor: mean_of(math.dist, rows, anchor),
        "wasserstein": lambda rows, anchor: mean_of(math.dist, rows, anchor),
        "energy": naive_energy,
        "mmd": lambda rows, anchor: naive_mmd(rows, anchor, bandwidth),
        "cosine": lambda rows, anchor: mean_of(naive_cosine, rows, anchor),
    }.items():
        assert found[distance]["real_variation"] == pytest.approx(function(real, ANCHORS[:1]), abs=1e-6), distance
        assert found[distance]["fake_variation"] == pytest.approx(function(fake, ANCHORS[1:]), abs=1e-6), distance
        groups = {(label, source) for label, source in zip(labels.tolist(), sources.tolist(), strict=True)}
        each = [function(images[(labels == k) & (sources == s)], ANCHORS[k][None]) for k, s in groups]
        assert found[distance]["intra_class_variation"] == pytest.approx(max(each), abs=1e-6), distance
        assert max(each) > max(found[distance]["real_variation"], found[distance]["fake_variation"])
    assert found["energy"]["inter_class_separation"] == pytest.approx(naive_energy(real, fake), abs=1e-6)
    assert found["mmd"]["inter_class_separation"] == pytest.approx(naive_mmd(real, fake, bandwidth), abs=1e-6)
    means = real.mean(dim=0).tolist(), fake.mean(dim=0).tolist()
    assert found["cosine"]["inter_class_separation"] == pytest.approx(naive_cosine(*means), abs=1e-6)


def test_the_euclidean_ones_are_the_statistics():
    images, labels, sources = make_classes()
    for distributions in (None, sources):
        expected = representation_statistics(images, labels, ANCHORS, distributions)
        found = representation_distances(images, labels, ANCHORS, distributions)
        assert found["euclidean"] == {key: value.item() for key, value in expected.items()}
    assert found["cosine"]["real_variation"] == pytest.approx(
        ((images[labels == 0] - ANCHORS[0]).norm(dim=1) ** 2 / 2).mean().item(), abs=1e-6
    )  # of unit vectors 1 - cos is half the squared distance


def test_wasserstein_separation_is_the_best_of_all_assignments():
    for seed in range(5):
        images, labels, _ = make_classes(seed, 5, 5, noise=2.0)
        cost = torch.cdist(images[labels == 0].double(), images[labels == 1].double())
        best = min(cost[range(5), list(order)].mean().item() for order in itertools.permutations(range(5)))
        found = representation_distances(images, labels, ANCHORS)
        assert found["wasserstein"]["inter_class_separation"] == pytest.approx(best, abs=1e-6)
        assert best < cost.diagonal().mean().item() - 1e-3  # control: the order given isn't the best one
        assert best >= found["euclidean"]["inter_class_separation"]


def test_on_a_line_the_separations_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(80, 1, generator=generator), torch.arange(80) % 2
    values += 0.5 * labels[:, None]
    found = representation_distances(values, labels, torch.tensor([[1.0], [-1.0]]))
    real, fake = (values[labels == label, 0].double().numpy() for label in (0, 1))
    expected = stats.wasserstein_distance(real, fake)
    assert found["wasserstein"]["inter_class_separation"] == pytest.approx(expected, abs=1e-6)
    assert found["energy"]["inter_class_separation"] == pytest.approx(stats.energy_distance(real, fake), abs=1e-6)
    assert found["energy"]["real_variation"] == pytest.approx(stats.energy_distance(real, [1.0]), abs=1e-6)


def test_two_points_in_closed_form():
    angle = math.radians(60)  # a chord of length 1
    images = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    found = representation_distances(images, torch.tensor([0, 1]), torch.eye(2))
    separation = {name: values["inter_class_separation"] for name, values in found.items()}
    assert separation == pytest.approx(
        {
            "euclidean": 1,
            "wasserstein": 1,
            "energy": math.sqrt(2),
            "mmd": math.sqrt(2 - 2 * math.exp(-0.5)),
            "cosine": 0.5,
        },
        abs=1e-6,
    )
    chord = 2 * math.sin(math.radians(15))  # from 60 to 90 degrees
    assert {name: values["fake_variation"] for name, values in found.items()} == pytest.approx(
        {
            "euclidean": chord,
            "wasserstein": chord,
            "energy": math.sqrt(2 * chord),
            "mmd": math.sqrt(2 - 2 * math.exp(-(chord**2) / 2)),
            "cosine": 1 - math.cos(math.radians(30)),
        },
        abs=1e-6,
    )
    assert all(values["real_variation"] == pytest.approx(0, abs=1e-6) for values in found.values())


def test_a_translated_sample_is_as_far_as_it_was_moved():
    images, _, _ = make_classes(n_fake=0, n_real=30)
    moved = images + torch.tensor([0.3, 0.0, 0.4, 0.0])
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    found = representation_distances(torch.cat([images, moved[order]]), torch.arange(60) // 30, ANCHORS)
    assert found["wasserstein"]["inter_class_separation"] == pytest.approx(0.5, abs=1e-6)
    assert found["euclidean"]["inter_class_separation"] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_equal_samples_have_no_separation(seed):
    generator = torch.Generator().manual_seed(seed)
    images = unit(torch.randn(60, 64, generator=generator))
    images = torch.cat([images, images[torch.randperm(60, generator=generator)]])
    found = representation_distances(images, torch.arange(120) // 60, unit(torch.randn(2, 64, generator=generator)))
    for distance, values in found.items():
        assert values["inter_class_separation"] == pytest.approx(0, abs=1e-6), distance
        assert values["real_variation"] > 0.5


def test_equal_images_on_an_anchor():
    anchors = unit(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)))
    found = representation_distances(anchors[:1].repeat(60, 1), torch.arange(60) // 30, anchors)
    for distance, values in found.items():
        assert values["inter_class_separation"] == pytest.approx(0, abs=1e-6), distance
        assert values["real_variation"] == pytest.approx(0, abs=1e-6), distance
        assert values["fake_variation"] > 0.9, distance


def test_swapping_the_classes_swaps_the_variations():
    images, labels, sources = make_classes(n_real=7)
    found = representation_distances(images, labels, ANCHORS, sources)
    swapped = representation_distances(images, 1 - labels, ANCHORS.flip(0), sources)
    for distance, values in found.items():
        assert values["real_variation"] != pytest.approx(values["fake_variation"], abs=1e-3)
        turned = {"real_variation": "fake_variation", "fake_variation": "real_variation"}
        for key in KEYS:
            assert values[key] == pytest.approx(swapped[distance][turned.get(key, key)], abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_tighter_classes_vary_less_and_farther_ones_are_more_separate(distance):
    variations, separations = [], []
    for noise in (0.1, 0.3, 0.6, 1.2):
        images, labels, _ = make_classes(3, 200, 50, noise)
        variations.append(representation_distances(images, labels, ANCHORS)[distance]["intra_class_variation"])
    assert variations == sorted(variations) and variations[-1] > 1.5 * variations[0]
    for angle in (0.0, 0.3, 0.6, 1.2):
        images, labels, _ = make_classes(3, 200, 50, 0.1)
        fake = labels == 1
        near = torch.tensor([math.cos(angle), math.sin(angle), 0.0, 0.0])
        images[fake] = unit(images[fake] - ANCHORS[1] + near)
        separations.append(representation_distances(images, labels, ANCHORS)[distance]["inter_class_separation"])
    assert separations == sorted(separations) and separations[-1] > 2 * separations[0]


def test_large_classes_are_sampled_where_pairs_count(monkeypatch):
    images, labels, _ = make_classes(0, 400, 300)
    everything = representation_distances(images, labels, ANCHORS)
    monkeypatch.setattr(representation, "MAX_IMAGES", 150)
    sampled = representation_distances(images, labels, ANCHORS)
    assert sampled == representation_distances(images, labels, ANCHORS)  # the same images each time
    assert sampled["cosine"] == everything["cosine"] and sampled["euclidean"] == everything["euclidean"]
    for distance in ("energy", "mmd"):
        assert sampled[distance] == pytest.approx(everything[distance], rel=0.2)
        assert all(sampled[distance][key] != everything[distance][key] for key in KEYS)
    assert sampled["wasserstein"]["inter_class_separation"] == pytest.approx(
        everything["wasserstein"]["inter_class_separation"], rel=0.1
    )


@pytest.mark.parametrize(("label", "present", "missing"), [(0, "real", "fake"), (1, "fake", "real")])
@pytest.mark.filterwarnings("error")
def test_distances_that_a_missing_class_undoes_are_nan(label, present, missing):
    images, _, _ = make_classes(n_fake=0)
    found = representation_distances(images, torch.full((9,), label), ANCHORS)
    for distance, values in found.items():
        assert math.isnan(values[f"{missing}_variation"]) and math.isnan(values["inter_class_separation"])
        if distance == "mmd":  # no bandwidth
            assert all(map(math.isnan, values.values()))
        else:
            assert values[f"{present}_variation"] == values["intra_class_variation"] > 0
    nothing = representation_distances(images[:0], torch.zeros(0, dtype=torch.long), ANCHORS)
    assert all(math.isnan(value) for values in nothing.values() for value in values.values())


def test_distances_name_a_bad_argument():
    with pytest.raises(ValueError, match="`text_embeds`"):
        representation_distances(torch.eye(4), torch.tensor([0, 1, 0, 1]), torch.eye(4))
