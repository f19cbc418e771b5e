"""The section `contrastive` of `benchmarks/speed.py`, on a tiny model."""

import pytest
import torch
from handmade_speed import load_harness


@pytest.fixture
def section(monkeypatch):
    load_harness(monkeypatch)
    from speed_sections import contrastive

    return contrastive


def test_rows_bars_and_equality(section, monkeypatch):
    harness = load_harness(monkeypatch)
    found = section.run(harness.turns.Settings("cpu", dry=True, repeats=2))
    term, whole = found.rows
    assert (term.what, term.alternative, term.bar, term.goal) == (section.TERM, section.WITHOUT, 0.01, "at most")
    assert (whole.what, whole.alternative, whole.bar) == (section.WITH, section.WITHOUT, None)
    assert term.limit == pytest.approx(whole.limit - 1, abs=1e-3) and 0 < term.limit < 0.1
    # 3 products of the 2 · 8 anchors, the 2 · 8 + 32 candidates and the dimension, 24.
    flops = found.details["flops"]
    assert flops[section.TERM] == 3 * 2 * 16 * 48 * 24
    assert term.limit == pytest.approx(flops[section.TERM] / flops[section.WITHOUT], rel=1e-3)
    for name, difference in found.equality.items():
        assert difference < (1e-5 if "float32" in name else 5e-3), name
    harness.records.section_from_dict(harness.records.section_to_dict(found))


def test_the_comparison_with_the_plain_loop_can_fail(section, monkeypatch):
    plain = section.plain_loss

    def without_the_oldest(term, bank):
        short = type(bank)(bank.size - 1, bank.dim)
        short.push(bank.embeddings, bank.labels)
        return plain(term, short)

    term = section.Term(6, 9, 8, "cpu")
    assert max(section.differences(term).values()) < 1e-3
    monkeypatch.setattr(section, "plain_loss", without_the_oldest)
    assert min(section.differences(term).values()) > 2e-3


def test_a_bank_stays_within_its_megabytes(section):
    taken = section.memory_taken(section.Term(2, 1024, 8, "cpu"), 1024, "cpu")
    assert taken["bank_bytes_768_float32"] == 1024 * (768 * 4 + 8) <= 4e6
    assert taken["bank_bytes_768_float16"] == 1024 * (768 * 2 + 8) <= 2e6


def test_the_term_fills_the_bank_and_leaves_gradients(section):
    term = section.Term(4, 6, 8, "cpu")
    before = term.bank.embeddings
    term()
    assert torch.equal(term.bank.embeddings, torch.cat([before[4:], term.images.detach()]))
    assert term.images.grad.abs().min() > 0 and term.text.grad.abs().min() > 0
    assert 0 < term.timed(2) < 1


def test_a_step_moves_only_prompts_and_only_the_term_needs_the_bank(section, tmp_path):
    from measuring import make_images
    from speed_sections.networks import make_detector

    def gradient(weight):
        model = make_detector("ViT-B/32", True).train()
        seen = []
        parameter = model.prompt_learner.text_prompts
        parameter.register_hook(lambda value: seen.append(value.clone()))
        before = [value.clone() for value in model.parameters()]
        section.make_step(model, str(tmp_path), "cpu", 32, weight)(make_images(4, 32))
        moved = [not torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True)]
        assert moved == [value.requires_grad for value in model.parameters()]
        return seen[0]

    assert (gradient(0.5) - gradient(0.0)).abs().max() > 1e-4


def test_memory_and_arithmetic_are_counted(section):
    from speed_sections.counting import extra_memory, flops_of_batch

    def work():
        first = torch.zeros(1000)
        del first
        return [torch.zeros(250) for _ in range(6)]

    assert extra_memory(work, "cpu") == pytest.approx(6000, abs=600)
    weight, states = torch.randn(8, 8), torch.randn(1, 2, 16, 8)

    def attend(count):
        attended = torch.nn.functional.scaled_dot_product_attention(*[states.repeat(count, 1, 1, 1)] * 3)
        return attended @ weight, weight @ weight

    image = 2 * 2 * (2 * 16 * 16 * 8) + 2 * (2 * 16 * 8 * 8)  # scores and values of 2 heads, and the product
    assert flops_of_batch(attend, 5) == 5 * image + 2 * 8**3
