"""The memory bank: embeddings of earlier batches as further candidates of the contrastive loss (Eq. 23, 27)."""

import torch


class MemoryBank:
    """
    First in, first out store of detached image embeddings and their labels, in a fixed amount of memory.

    It is no module: wrappers that broadcast a model's buffers between processes, or cast them, must not touch it.

    Args:
        size (`int`):
            |M|, the number of embeddings kept. 0 makes a bank that stays empty.
        dim (`int`):
            D, the embedding dimension.
        device (`torch.device`, *optional*):
            Where the embeddings are kept.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            How they are kept: 1024 × 768 of them take 3 MiB in float32, 1.5 MiB in float16. Unit-norm embeddings are
            rounded by at most 2⁻¹¹ of each value in float16; the loss is computed in float32 either way.

    Raises:
        `ValueError`: If `size` is negative or `dim` is not positive.

    Example:

    ```python
    >>> import torch
    >>> from mirage_hf.memory_bank import MemoryBank

    >>> bank = MemoryBank(size=3, dim=1)
    >>> bank.push(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]))
    >>> bank.push(torch.tensor([[3.0], [4.0]]), torch.tensor([0, 1]))
    >>> bank.embeddings.flatten().tolist(), bank.labels.tolist()
    ([2.0, 3.0, 4.0], [1, 0, 1])

    ```"""

    def __init__(
        self, size: int, dim: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ):
        if size < 0:
            raise ValueError(f"`size` must not be negative, got {size}.")
        if dim < 1:
            raise ValueError(f"`dim` must be positive, got {dim}.")
        self.size, self.dim = size, dim
        self._embeddings = torch.zeros(size, dim, device=device, dtype=dtype)
        self._labels = torch.zeros(size, device=device, dtype=torch.long)
        self._fill = 0
        self._cursor = 0  # where the next embedding goes: once the bank is full, the place of the oldest

    def __len__(self) -> int:
        return self._fill

    @property
    def nbytes(self) -> int:
        """`int`: Bytes of the embeddings and their labels, filled or not."""
        return self._embeddings.nbytes + self._labels.nbytes

    @property
    def embeddings(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(len(self), dim)`: The stored embeddings, oldest first."""
        return self._oldest_first(self._embeddings)

    @property
    def labels(self) -> torch.Tensor:
        """`torch.Tensor` of shape `(len(self),)`: Their labels."""
        return self._oldest_first(self._labels)

    def _oldest_first(self, values: torch.Tensor) -> torch.Tensor:
        if self._fill < self.size:
            return values[: self._fill].clone()
        return torch.cat([values[self._cursor :], values[: self._cursor]])

    @torch.no_grad()
    def push(self, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
        """
        Stores a batch in place of the oldest embeddings.

        Args:
            embeddings (`torch.Tensor` of shape `(B, dim)`):
                Stored detached. Of a batch larger than the bank the last `size` are kept.
            labels (`torch.Tensor` of shape `(B,)`):
                Their classes.

        Raises:
            `ValueError`: If the shapes do not fit.
        """
        if embeddings.dim() != 2 or embeddings.shape[1] != self.dim or labels.shape != embeddings.shape[:1]:
            raise ValueError(
                f"`embeddings` and `labels` must be of shape (B, {self.dim}) and (B,), "
                f"got {tuple(embeddings.shape)} and {tuple(labels.shape)}."
            )
        if self.size == 0:
            return
        embeddings, labels = embeddings[-self.size :], labels[-self.size :]
        first = min(len(labels), self.size - self._cursor)  # what fits before the end; the rest starts over
        for store, values in ((self._embeddings, embeddings), (self._labels, labels)):
            store[self._cursor : self._cursor + first] = values[:first]
            store[: len(values) - first] = values[first:]
        self._cursor = (self._cursor + len(labels)) % self.size
        self._fill = min(self._fill + len(labels), self.size)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Embeddings and labels in order; storable by safetensors."""
        return {"embeddings": self.embeddings, "labels": self.labels}

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """
        Replaces the content.

        Raises:
            `ValueError`: If the state holds more embeddings than the bank does, or of another dimension.
        """
        count = len(state_dict["labels"])
        if count > self.size:
            raise ValueError(
                f"The state holds {count} embeddings and the bank {self.size}; use the same `memory_size`."
            )
        self._fill = self._cursor = 0
        self.push(state_dict["embeddings"], state_dict["labels"])


__all__ = ["MemoryBank"]
