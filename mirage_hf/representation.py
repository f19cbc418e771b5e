"""How tight and how far apart the two classes lie: the paper's Definitions 4.1 and 4.2, measured.

[`representation_statistics`] is cheap and serves training; [`representation_distances`] gives the same two quantities
in several distances, for a report.
"""

import numpy as np
import torch

MAX_IMAGES = 1000  # of a class or distribution, where every pair of images counts: 8 MB of distances, 1 s at most


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


def representation_distances(
    image_embeds: torch.Tensor,
    labels: torch.Tensor,
    text_embeds: torch.Tensor,
    distributions: torch.Tensor | None = None,
) -> dict[str, dict[str, float]]:
    r"""
    Definitions 4.1 and 4.2 of [MiraGe](https://arxiv.org/abs/2508.01525) in five distances; the paper leaves the
    distance open.

    Variation (4.1) is the distance between a distribution P of image embeddings x and the Dirac measure at its class's
    text anchor t; separation (4.2) the one between the distributions R of reals and F of fakes. Primes are second,
    independent draws.

    | key | variation | separation |
    |---|---|---|
    | `euclidean` | E‖x - t‖ | ‖E r - E f‖, as [`representation_statistics`] |
    | `wasserstein` | E‖x - t‖, which is the Wasserstein-1 distance to a Dirac | Wasserstein-1, by optimal assignment |
    | `energy` | √(2 E‖x - t‖ - E‖x - x'‖) | √(2 E‖r - f‖ - E‖r - r'‖ - E‖f - f'‖) |
    | `mmd` | √(E k(x, x') + 1 - 2 E k(x, t)) | √(E k(r, r') + E k(f, f') - 2 E k(r, f)) |
    | `cosine` | E[1 - cos(x, t)] | 1 - cos(E r, E f) |

    k(a, b) = exp(-‖a - b‖² / 2σ²). Its bandwidth σ is the median distance between a real and a fake image: over all
    pairs the larger class would set it, and shrinking that class would shrink its own yardstick. Since σ comes from
    the embeddings, `mmd` says less between models than between the distributions of one. `cosine` has no triangle
    inequality, which the paper's Lemma B.2 uses, and its separation says nothing once a class's mean is near 0.

    Expectations run over all pairs of the sample, an image with itself included, so all values are >= 0 and 0 for two
    equal samples. Samples of the same distribution aren't: in many dimensions Wasserstein-1 above all stays far from 0
    and falls only slowly with more images. Compare values of as many images.

    Where pairs count (`energy`, `mmd`, the separation of `wasserstein`), at most `MAX_IMAGES` of each class and of
    each distribution enter, drawn with a fixed seed. The assignment needs classes of equal size, so the larger one is
    cut to the smaller.

    Args:
        image_embeds, labels, text_embeds, distributions: As in [`representation_statistics`].

    Returns:
        `dict[str, dict[str, float]]`: For each distance `real_variation` and `fake_variation`, of each class as a
        whole; `intra_class_variation`, the largest over classes and distributions; `inter_class_separation`. NaN where
        a class that is needed has no image, which for `mmd` is either.

    Raises:
        `ValueError`: If the shapes do not fit.
    """
    statistics = representation_statistics(image_embeds, labels, text_embeds, distributions)
    found = {"euclidean": {key: value.item() for key, value in statistics.items()}}
    images, anchors = (tensor.detach().cpu().double() for tensor in (image_embeds, text_embeds))
    groups = (labels if distributions is None else labels + 2 * distributions).cpu()
    real, fake = (images[labels.cpu() == label] for label in (0, 1))
    bandwidth = (
        float(np.median(_distances(_sample(real, MAX_IMAGES), _sample(fake, MAX_IMAGES))))
        if len(real) and len(fake)
        else torch.nan
    )

    def to_anchor(rows: torch.Tensor, label: int) -> dict[str, float]:
        anchor = anchors[label][None]  # (1, D): a Dirac is a sample of one
        cosine = (1 - torch.cosine_similarity(rows, anchor, dim=1)).mean().item()
        return {**_pair_distances(rows, anchor, bandwidth), "cosine": cosine}

    between = {**_pair_distances(real, fake, bandwidth), "wasserstein": _wasserstein(real, fake)}
    between["cosine"] = 1 - torch.cosine_similarity(real.mean(dim=0), fake.mean(dim=0), dim=0).item()
    classes = to_anchor(real, 0), to_anchor(fake, 1)
    parts = [to_anchor(images[groups == group], group % 2) for group in groups.unique().tolist()]
    found["wasserstein"] = {**found["euclidean"], "inter_class_separation": between["wasserstein"]}
    for distance in ("energy", "mmd", "cosine"):
        found[distance] = {
            "real_variation": classes[0][distance],
            "fake_variation": classes[1][distance],
            "intra_class_variation": max((part[distance] for part in parts), default=torch.nan),
            "inter_class_separation": between[distance],
        }
    return found


def _sample(rows: torch.Tensor, size: int) -> torch.Tensor:
    """At most `size` of these rows, the same ones each time."""
    if len(rows) <= size:
        return rows
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:size]]


def _distances(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Euclidean distances of all pairs, (len(first), len(second)); below float32's precision they are 0."""
    # The matrix products of cdist give equal rows about 1e-8, of which the root in energy distance would make 1e-4.
    return torch.nn.functional.threshold(torch.cdist(first, second), 1e-6, 0.0)


def _wasserstein(first: torch.Tensor, second: torch.Tensor) -> float:
    """Wasserstein-1 distance of two samples; between equal numbers of points some optimal plan is an assignment."""
    from scipy.optimize import linear_sum_assignment  # here, since training never needs it

    size = min(len(first), len(second), MAX_IMAGES)
    cost = _distances(_sample(first, size), _sample(second, size)).numpy()
    return float(cost[linear_sum_assignment(cost)].mean()) if size else torch.nan


def _pair_distances(first: torch.Tensor, second: torch.Tensor, bandwidth: float) -> dict[str, float]:
    """
    Energy distance, as the root of its square ([Székely and Rizzo 2013](https://doi.org/10.1016/j.jspi.2013.03.018)),
    and maximum mean discrepancy ([Gretton et al. 2012](https://jmlr.org/papers/v13/gretton12a.html), Eq. 5). NaN where
    a sample is empty.
    """
    first, second = _sample(first, MAX_IMAGES), _sample(second, MAX_IMAGES)
    *within, across = _distances(first, first), _distances(second, second), _distances(first, second)
    energy = 2 * across.mean() - within[0].mean() - within[1].mean()
    width = max(bandwidth, 1e-12)  # it is 0 where reals and fakes are one point
    kernels = [(-((distances / width) ** 2) / 2).exp().mean() for distances in (*within, across)]
    mmd = kernels[0] + kernels[1] - 2 * kernels[2]
    return {name: value.clamp(min=0).sqrt().item() for name, value in (("energy", energy), ("mmd", mmd))}


__all__ = ["representation_distances", "representation_statistics"]
