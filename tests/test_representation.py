"""Intra-class variation and inter-class separation against closed forms, a loop, and optimal transport."""

import math

import numpy as np
import pytest
import torch

from mirage_hf.representation import representation_statistics


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
