"""The bank against a Python list."""

import pytest
import torch
from torch.nn.functional import normalize

from mirage_hf.memory_bank import MemoryBank


@pytest.mark.parametrize("size", [0, 1, 5, 8])
def test_equals_a_list_cut_to_its_last_entries(size):
    generator = torch.Generator().manual_seed(size)
    bank, expected = MemoryBank(size, 3), []
    for batch in (2, 3, 1, 8, 4, 5, 20, 1, 7):
        embeddings = torch.randn(batch, 3, generator=generator)
        labels = torch.randint(2, (batch,), generator=generator)
        bank.push(embeddings, labels)
        expected = (expected + list(zip(embeddings.tolist(), labels.tolist(), strict=True)))[-size:] if size else []
        assert len(bank) == len(expected)
        assert list(zip(bank.embeddings.tolist(), bank.labels.tolist(), strict=True)) == expected


def test_memory_is_fixed_and_detached():
    bank = MemoryBank(4, 2)
    address = bank._embeddings.data_ptr()
    embeddings = torch.randn(3, 2, requires_grad=True)
    for _ in range(5):
        bank.push(embeddings * 2, torch.zeros(3, dtype=torch.long))
    assert bank._embeddings.data_ptr() == address and bank._embeddings.shape == (4, 2)
    assert not bank.embeddings.requires_grad


def test_what_was_read_does_not_change_with_the_next_push():
    bank = MemoryBank(4, 1)
    bank.push(torch.ones(2, 1), torch.zeros(2, dtype=torch.long))
    for _ in range(3):  # partly filled, then full
        read = bank.embeddings
        copy = read.clone()
        bank.push(torch.full((3, 1), 7.0), torch.ones(3, dtype=torch.long))
        assert torch.equal(read, copy)


def test_bytes_at_the_papers_size():
    for dtype, bytes_each in ((torch.float32, 4), (torch.float16, 2)):
        bank = MemoryBank(1024, 768, dtype=dtype)
        assert bank.nbytes == 1024 * (768 * bytes_each + 8) <= bytes_each * 1e6
        for _ in range(3):  # nor does it grow
            bank.push(torch.randn(700, 768), torch.zeros(700, dtype=torch.long))
        assert bank.nbytes == bank._embeddings.nbytes + bank._labels.nbytes == 1024 * (768 * bytes_each + 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_each_value_once(dtype):
    """What is read is what was pushed, rounded, however often the bank turns over or is saved and loaded."""
    bank, expected = MemoryBank(5, 3, dtype=dtype), []
    generator = torch.Generator().manual_seed(0)
    for batch in (2, 4, 7, 3):
        embeddings = normalize(torch.randn(batch, 3, generator=generator), dim=-1)
        bank.push(embeddings, torch.zeros(batch, dtype=torch.long))
        expected = (expected + embeddings.tolist())[-5:]
        again = MemoryBank(5, 3, dtype=dtype)
        again.load_state_dict(bank.state_dict())
        assert bank.embeddings.dtype == dtype and torch.equal(again.embeddings, bank.embeddings)
        assert torch.equal(bank.embeddings, torch.tensor(expected).to(dtype))
    assert not torch.equal(bank.embeddings.float(), torch.tensor(expected))  # the control: it does round


def test_state_round_trip_goes_on_alike():
    first = MemoryBank(5, 2)
    first.push(torch.randn(7, 2), torch.tensor([0, 1, 0, 1, 0, 1, 1]))
    second = MemoryBank(5, 2)
    second.push(torch.randn(3, 2), torch.zeros(3, dtype=torch.long))
    second.load_state_dict(first.state_dict())
    for bank in (first, second):
        bank.push(torch.full((2, 2), 3.0), torch.tensor([1, 1]))
    assert torch.equal(first.embeddings, second.embeddings) and torch.equal(first.labels, second.labels)


def test_errors():
    with pytest.raises(ValueError, match="`size`"):
        MemoryBank(-1, 2)
    with pytest.raises(ValueError, match="`dim`"):
        MemoryBank(1, 0)
    bank = MemoryBank(2, 3)
    with pytest.raises(ValueError, match="`embeddings` and `labels`"):
        bank.push(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="`embeddings` and `labels`"):
        bank.push(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    large = MemoryBank(9, 3)
    large.push(torch.zeros(9, 3), torch.zeros(9, dtype=torch.long))
    with pytest.raises(ValueError, match="`memory_size`"):
        bank.load_state_dict(large.state_dict())
