"""The bank against a Python list."""

import pytest
import torch

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
    for dtype, megabytes in ((torch.float32, 3.0), (torch.float16, 1.5)):
        bank = MemoryBank(1024, 768, dtype=dtype)
        assert bank._embeddings.nbytes == megabytes * 2**20


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
