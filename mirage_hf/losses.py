"""MiraGe's discriminative loss: supervised contrast between images, text anchors and a memory (Eq. 5, 23-26)."""

import torch

TEXT_ANCHORS = ("per_sample", "per_class")
REDUCTIONS = ("mean", "sum")


def supervised_contrastive_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    memory_embeddings: torch.Tensor | None = None,
    memory_labels: torch.Tensor | None = None,
    *,
    text_embeds: torch.Tensor | None = None,
    temperature: float = 0.07,
    text_anchors: str = "per_sample",
    memory_as_anchors: bool = False,
    reduction: str = "mean",
) -> torch.Tensor:
    r"""
    Supervised contrastive loss over the multimodal set of a batch, with an optional memory of earlier embeddings.

    With Z the batch's embeddings and text anchors, M the memory, A(i) = Z ∪ M without i and
    P(i) = {p ∈ A(i) : y_p = y_i},

        L = mean over i ∈ Z with P(i) ≠ ∅ of  −1/|P(i)| Σ_{p∈P(i)} log( exp(z_i·z_p/τ) / Σ_{a∈A(i)} exp(z_i·z_a/τ) )

    It is computed in float32 whatever the autocast state, and finite for every legal input: an anchor without a
    positive contributes nothing, and a batch without any gives 0.

    Args:
        embeddings (`torch.Tensor` of shape `(B, D)`):
            Unit-norm image embeddings.
        labels (`torch.Tensor` of shape `(B,)`):
            Class of each embedding.
        memory_embeddings (`torch.Tensor` of shape `(N, D)`, *optional*):
            Unit-norm embeddings of earlier batches; no gradient flows to them. N may be 0.
        memory_labels (`torch.Tensor` of shape `(N,)`, *optional*):
            Class of each memory entry.
        text_embeds (`torch.Tensor` of shape `(C, D)`, *optional*):
            Unit-norm text anchor of each class, C = 2 in MiraGe. Without it Z holds images only (SupCon).
        temperature (`float`, *optional*, defaults to 0.07):
            τ.
        text_anchors (`str`, *optional*, defaults to `"per_sample"`):
            How the anchors enter Z: `"per_sample"`, t_{y_i} once for every image (2B members, as SupCon's two views),
            or `"per_class"`, every anchor once (B + C members). The paper's text allows both; the gradients differ.
        memory_as_anchors (`bool`, *optional*, defaults to `False`):
            Whether i runs over the memory too, as Eq. 26 can be read, and not over Z alone.
        reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` over the anchors that have a positive, or `"sum"` as Eq. 5 is printed.

    Returns:
        `torch.Tensor` of shape `()`, float32.

    Raises:
        `ValueError`: If shapes do not fit or an option is unknown; the message names the argument.

    References:
        - MiraGe, Eq. 5 and 26: https://arxiv.org/abs/2508.01525
        - Supervised Contrastive Learning, L_out: https://arxiv.org/abs/2004.11362

    Example:

    ```python
    >>> import torch
    >>> from mirage_hf.losses import supervised_contrastive_loss

    >>> embeddings = torch.eye(4)  # all similarities are 0, so every candidate is as likely as another
    >>> loss = supervised_contrastive_loss(embeddings, torch.tensor([0, 0, 1, 1]))
    >>> round(loss.item(), 4)  # log 3
    1.0986

    ```"""
    check_contrastive_options(temperature, text_anchors, reduction)
    _check_pair(embeddings, labels, "embeddings", "labels", embeddings.shape[-1])
    if (memory_embeddings is None) != (memory_labels is None):
        raise ValueError("`memory_embeddings` and `memory_labels` must be given together.")
    if text_embeds is not None and (text_embeds.dim() != 2 or text_embeds.shape[1] != embeddings.shape[1]):
        raise ValueError(f"`text_embeds` must be of shape (C, {embeddings.shape[1]}), got {tuple(text_embeds.shape)}.")

    with torch.autocast(embeddings.device.type, enabled=False):
        anchors, anchor_labels = embeddings.float(), labels  # (B, D), (B,)
        if text_embeds is not None and text_anchors == "per_sample":
            anchors = torch.cat([anchors, text_embeds.float()[labels]])  # (2B, D)
            anchor_labels = torch.cat([labels, labels])
        elif text_embeds is not None:
            classes = torch.arange(len(text_embeds), device=labels.device)
            anchors = torch.cat([anchors, text_embeds.float()])  # (B + C, D)
            anchor_labels = torch.cat([labels, classes])
        candidates, candidate_labels = anchors, anchor_labels
        if memory_embeddings is not None and memory_labels is not None:
            _check_pair(memory_embeddings, memory_labels, "memory_embeddings", "memory_labels", embeddings.shape[1])
            candidates = torch.cat([anchors, memory_embeddings.detach().float()])  # (|Z| + N, D)
            candidate_labels = torch.cat([anchor_labels, memory_labels])
        if memory_as_anchors:
            anchors, anchor_labels = candidates, candidate_labels
        return _contrast(anchors, anchor_labels, candidates, candidate_labels, temperature, reduction)


def _contrast(anchors, anchor_labels, candidates, candidate_labels, temperature, reduction) -> torch.Tensor:
    similarity = anchors @ candidates.T / temperature  # (|anchors|, |candidates|)
    # Anchor i is candidate i. A finite stand-in for minus infinity keeps the gradient finite for a lonely anchor.
    is_self = torch.eye(len(anchors), len(candidates), dtype=torch.bool, device=anchors.device)
    log_denominator = similarity.masked_fill(is_self, torch.finfo(similarity.dtype).min).logsumexp(
        dim=1
    )  # (|anchors|,)
    positives = (anchor_labels[:, None] == candidate_labels[None, :]) & ~is_self
    count = positives.sum(dim=1)  # |P(i)|
    mean_similarity = (similarity * positives).sum(dim=1) / count.clamp(min=1)
    losses = torch.where(count > 0, log_denominator - mean_similarity, 0.0)  # (|anchors|,)
    return losses.sum() if reduction == "sum" else losses.sum() / (count > 0).sum().clamp(min=1)


def check_contrastive_options(temperature: float, text_anchors: str, reduction: str) -> None:
    """
    Raises:
        `ValueError`: If an option of [`supervised_contrastive_loss`] is out of range; the message names it.
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    if text_anchors not in TEXT_ANCHORS:
        raise ValueError(f"`text_anchors` must be one of {', '.join(TEXT_ANCHORS)}, got {text_anchors!r}.")
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")


def _check_pair(embeddings, labels, embeddings_name, labels_name, dim) -> None:
    if embeddings.dim() != 2 or embeddings.shape[1] != dim:
        raise ValueError(f"`{embeddings_name}` must be of shape (N, {dim}), got {tuple(embeddings.shape)}.")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"`{labels_name}` must be of shape ({len(embeddings)},), got {tuple(labels.shape)}.")


__all__ = ["check_contrastive_options", "supervised_contrastive_loss"]
