"""How tight and how far apart the two classes lie: the paper's Definitions 4.1 and 4.2, measured."""

import torch


@torch.no_grad()
def representation_statistics(
    image_embeds: torch.Tensor,
    labels: torch.Tensor,
    text_embeds: torch.Tensor,
    distributions: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    r"""
    Intra-class variation and inter-class separation of [MiraGe](https://arxiv.org/abs/2508.01525), in Euclidean
    distance.

    The reading taken: Definition 4.1 measures how far a distribution of embeddings lies from a Dirac measure at its
    class's text anchor, which for the Wasserstein-1 distance is the mean distance to the anchor; the supremum over
    distributions is a maximum over those present. Definition 4.2 is taken between the classes' mean embeddings, which
    is never more than their Wasserstein-1 distance. Only `distributions` make it wait for the device.

    Args:
        image_embeds (`torch.Tensor` of shape `(N, D)`):
            Unit-norm image embeddings.
        labels (`torch.Tensor` of shape `(N,)`):
            0 = real, 1 = fake.
        text_embeds (`torch.Tensor` of shape `(2, D)`):
            Unit-norm text anchors of real and of fake.
        distributions (`torch.Tensor` of shape `(N,)`, *optional*):
            Integer id of the generator or source of each image. Without it each class is one distribution.

    Returns:
        `dict[str, torch.Tensor]`: float32 scalars on the embeddings' device, each in [0, 2]:
        - `real_variation`, `fake_variation`: mean distance of a class's images to its anchor;
        - `intra_class_variation`: the largest such mean over classes and distributions;
        - `inter_class_separation`: distance between the classes' mean embeddings.
        NaN where a class that is needed has no image.

    Raises:
        `ValueError`: If the shapes do not fit.
    """
    if image_embeds.dim() != 2 or text_embeds.shape != (2, image_embeds.shape[1]):
        raise ValueError(
            "`image_embeds` and `text_embeds` must be of shape (N, D) and (2, D), "
            f"got {tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}."
        )
    if labels.shape != image_embeds.shape[:1]:
        raise ValueError(f"`labels` must be of shape ({len(image_embeds)},), got {tuple(labels.shape)}.")
    image_embeds, text_embeds = image_embeds.float(), text_embeds.float()
    distances = torch.linalg.vector_norm(image_embeds - text_embeds[labels], dim=1)  # (N,)

    groups = labels if distributions is None else labels + 2 * distributions
    ids = torch.arange(2, device=labels.device) if distributions is None else groups.unique()  # (G,)
    variation = _means(distances[:, None], groups == ids[:, None])[:, 0]  # (G,)
    is_class = labels == torch.arange(2, device=labels.device)[:, None]  # (2, N)
    real_variation, fake_variation = _means(distances[:, None], is_class)[:, 0]
    real_mean, fake_mean = _means(image_embeds, is_class)  # (D,), (D,)
    largest = variation.nan_to_num(-1.0).max() if len(ids) else variation.sum() / 0.0
    return {
        "real_variation": real_variation,
        "fake_variation": fake_variation,
        "intra_class_variation": torch.where(largest < 0, torch.nan, largest),
        "inter_class_separation": torch.linalg.vector_norm(real_mean - fake_mean),
    }


def _means(values: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Means of the rows of `values` (N, D) over each row of the mask `members` (G, N): (G, D), NaN where empty."""
    # Sums of products, not matrix products, which autocast would take to half precision.
    return (values[None] * members[:, :, None]).sum(dim=1) / members.sum(dim=1)[:, None]


__all__ = ["representation_statistics"]
