"""The contrastive loss against a naive triple loop in float64, a closed form, and pytorch-metric-learning."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from torch.nn.functional import normalize

from mirage_hf.losses import supervised_contrastive_loss
from mirage_hf.memory_bank import MemoryBank

OPTIONS = [
    {},
    {"text_anchors": "per_class"},
    {"memory_as_anchors": True},
    {"reduction": "sum"},
    {"text_anchors": "per_class", "memory_as_anchors": True, "reduction": "sum"},
    {"temperature": 0.5},
]


def make_set(batch=6, memory=9, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = normalize(torch.randn(batch, dim, generator=generator), dim=-1)
    text = normalize(torch.randn(2, dim, generator=generator), dim=-1)
    bank = normalize(torch.randn(memory, dim, generator=generator), dim=-1)
    labels = torch.randint(2, (batch,), generator=generator)
    bank_labels = torch.randint(2, (memory,), generator=generator)
    return images, labels, text, bank, bank_labels


def naive_loss(
    images,
    labels,
    text=None,
    bank=None,
    bank_labels=None,
    temperature=0.07,
    text_anchors="per_sample",
    memory_as_anchors=False,
    reduction="mean",
    keep_self=False,
):
    """Eq. 5 and 26 as three loops over indices; `keep_self` breaks it on purpose."""
    members = [(images[i], int(labels[i])) for i in range(len(images))]
    if text is not None and text_anchors == "per_sample":
        members += [(text[int(y)], int(y)) for y in labels]
    elif text is not None:
        members += [(text[k], k) for k in range(len(text))]
    anchors = len(members)
    if bank is not None:
        members += [(bank[i].detach(), int(bank_labels[i])) for i in range(len(bank))]
    total, counted = images.sum() * 0, 0
    for i in range(len(members) if memory_as_anchors else anchors):
        others = [a for a in range(len(members)) if a != i or keep_self]
        positives = [p for p in others if members[p][1] == members[i][1]]
        if not positives:
            continue
        denominator = sum(torch.exp(members[i][0] @ members[a][0] / temperature) for a in others)
        for p in positives:
            total = total - (members[i][0] @ members[p][0] / temperature - denominator.log()) / len(positives)
        counted += 1
    return total if reduction == "sum" or counted == 0 else total / counted


def both(images, labels, text, bank, bank_labels, **options):
    """Loss and gradients of ours in float32, and of the loop in float64."""
    results = []
    for dtype in (torch.float32, torch.float64):
        x, t = images.to(dtype).requires_grad_(), text.to(dtype).requires_grad_()
        b = bank.to(dtype).requires_grad_()
        if dtype == torch.float32:
            loss = supervised_contrastive_loss(x, labels, b, bank_labels, text_embeds=t, **options)
        else:
            loss = naive_loss(x, labels, t, b, bank_labels, **options)
        gradients = torch.autograd.grad(loss, (x, t, b), allow_unused=True)
        assert gradients[2] is None  # the bank is detached
        results.append((loss.double(), gradients[0].double(), gradients[1].double()))
    return results


@pytest.mark.parametrize("options", OPTIONS)
def test_loss_and_gradient_equal_the_triple_loop(options):
    ours, naive = both(*make_set(), **options)
    scale = max(1.0, naive[0].item())
    for value, reference in zip(ours, naive, strict=True):
        torch.testing.assert_close(value / scale, reference / scale, atol=1e-6, rtol=1e-6)


def test_the_comparison_can_fail():
    images, labels, text, bank, bank_labels = make_set()
    ours = supervised_contrastive_loss(images, labels, bank, bank_labels, text_embeds=text)
    broken = naive_loss(images, labels, text, bank, bank_labels, keep_self=True)
    assert (ours - broken).abs() > 1e-2


def test_the_four_readings_differ():
    images, labels, text, bank, bank_labels = make_set()
    values = {
        round(supervised_contrastive_loss(images, labels, bank, bank_labels, text_embeds=text, **options).item(), 4)
        for options in OPTIONS
    }
    assert len(values) == len(OPTIONS)


def test_closed_form_of_equal_similarities():
    embeddings = torch.eye(6)  # every similarity is 0: each of the 5 candidates is as likely as another
    loss = supervised_contrastive_loss(embeddings, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert loss.item() == pytest.approx(math.log(5), abs=1e-6)


def test_equals_pytorch_metric_learning_without_memory():
    images, labels, text, _, _ = make_set(batch=8)
    members, member_labels = torch.cat([images, text[labels]]), torch.cat([labels, labels])
    expected = SupConLoss(temperature=0.07)(members, member_labels)
    ours = supervised_contrastive_loss(images, labels, text_embeds=text)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_equals_pytorch_metric_learning_with_memory():
    images, labels, text, bank, bank_labels = make_set(batch=8)
    members, member_labels = torch.cat([images, text[labels]]), torch.cat([labels, labels])
    candidates, candidate_labels = torch.cat([members, bank]), torch.cat([member_labels, bank_labels])
    same = member_labels[:, None] == candidate_labels[None, :]
    not_self = ~torch.eye(len(members), len(candidates), dtype=torch.bool)
    pairs = (*torch.where(same & not_self), *torch.where(~same))
    reference = SupConLoss(temperature=0.07)
    expected = reference(members, member_labels, pairs, candidates, candidate_labels)
    ours = supervised_contrastive_loss(images, labels, bank, bank_labels, text_embeds=text)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    # Left to choose the pairs itself, that library pairs each anchor with itself.
    self_pairs = reference(members, member_labels, ref_emb=candidates, ref_labels=candidate_labels)
    assert (ours - self_pairs).abs() > 1e-2


@pytest.mark.parametrize("text_anchors", ["per_sample", "per_class"])
@pytest.mark.parametrize("labels", [[0], [1, 1], [0, 1], [0, 0, 0, 1]])
def test_finite_for_every_legal_batch(labels, text_anchors):
    labels = torch.tensor(labels)
    embeddings = normalize(torch.ones(len(labels), 4), dim=-1).requires_grad_()
    text = torch.eye(4)[:2].requires_grad_()
    empty, none = torch.empty(0, 4), torch.empty(0, dtype=torch.long)
    for options in ({}, {"temperature": 1e-3}):
        loss = supervised_contrastive_loss(
            embeddings, labels, empty, none, text_embeds=text, text_anchors=text_anchors, **options
        )
        gradients = torch.autograd.grad(loss, (embeddings, text))
        assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


def test_no_positive_anywhere_gives_zero():
    embeddings = torch.eye(3)[:2].requires_grad_()
    for labels in ([0, 1], [0]):
        loss = supervised_contrastive_loss(embeddings[: len(labels)], torch.tensor(labels))
        assert loss.item() == 0.0
        assert torch.equal(torch.autograd.grad(loss, embeddings)[0], torch.zeros(2, 3))


def test_an_empty_memory_changes_nothing():
    images, labels, text, _, _ = make_set()
    empty = torch.empty(0, 8), torch.empty(0, dtype=torch.long)
    assert torch.equal(
        supervised_contrastive_loss(images, labels, *empty, text_embeds=text),
        supervised_contrastive_loss(images, labels, text_embeds=text),
    )


def test_float32_under_autocast():
    images, labels, text, bank, bank_labels = make_set()
    expected = supervised_contrastive_loss(images, labels, bank, bank_labels, text_embeds=text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (images @ images.T).dtype == torch.bfloat16  # autocast is on
        loss = supervised_contrastive_loss(images, labels, bank, bank_labels, text_embeds=text)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_a_bank_in_half_precision(dtype, rounding):
    """The loss is that of the rounded bank, in float32; from the exact bank's it differs by the rounding alone."""
    images, labels, text, exact, bank_labels = make_set(batch=16, memory=40, dim=32)
    bank = MemoryBank(40, 32, dtype=dtype)
    bank.push(exact, bank_labels)
    for name in ("images", "text"):
        part = {"images": images, "text": text}[name].requires_grad_()
        ours = supervised_contrastive_loss(images, labels, bank.embeddings, bank.labels, text_embeds=text)
        naive = naive_loss(images.double(), labels, text.double(), bank.embeddings.double(), bank_labels)
        whole = naive_loss(images.double(), labels, text.double(), exact.double(), bank_labels)
        assert ours.dtype == torch.float32 and abs(ours.item() - naive.item()) < 1e-5
        gradients = [torch.autograd.grad(loss, part)[0] for loss in (ours, naive, whole)]
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)
        assert 0 < abs(ours.item() - whole.item()) < rounding  # the control: rounding shows
        assert 1e-6 < (gradients[0] - gradients[2]).norm() / gradients[2].norm() < rounding


@pytest.mark.parametrize(
    "change, match",
    [
        ({"temperature": 0.0}, "`temperature`"),
        ({"text_anchors": "none"}, "`text_anchors`"),
        ({"reduction": "max"}, "`reduction`"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "`labels`"),
        ({"embeddings": torch.zeros(6)}, "`embeddings`"),
        ({"memory_embeddings": torch.zeros(9, 3)}, "`memory_embeddings`"),
        ({"memory_labels": None}, "together"),
        ({"text_embeds": torch.zeros(2, 3)}, "`text_embeds`"),
    ],
)
def test_errors_name_the_argument(change, match):
    images, labels, text, bank, bank_labels = make_set()
    arguments = {
        "embeddings": images,
        "labels": labels,
        "memory_embeddings": bank,
        "memory_labels": bank_labels,
        "text_embeds": text,
    }
    with pytest.raises(ValueError, match=match):
        supervised_contrastive_loss(**(arguments | change))
