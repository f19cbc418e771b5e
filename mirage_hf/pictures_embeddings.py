"""A map of image embeddings and text anchors, as in Fig. 2 of [MiraGe](https://arxiv.org/abs/2508.01525)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .pictures_style import COLOURS, MARKERS, Look, label, new_figure, panels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Embeddings = tuple[Any, ...]
_LEAST_IMAGES = 5


@styled
def embedding_map(embeddings: dict[str, Embeddings], seed: int = 0) -> "Figure":
    """
    t-SNE of image embeddings together with the two text anchors, a panel for each detector.

    Distances between far groups mean little in such a map; the numbers are in `representation_statistics`. Time grows
    faster than the number of images: draw a few thousand of them at most.

    Args:
        embeddings (`dict[str, tuple]`):
            Title -> image embeddings `(N, D)`, labels `(N,)` with 0 for real and 1 for fake, generators (N names) and
            text anchors `(2, D)` of real and of fake.
        seed (`int`, *optional*, defaults to 0):
            Of the noise that t-SNE starts with: what differs between two seeds isn't in the data.

    Raises:
        ValueError: there is no panel, shapes don't fit, a value isn't finite, or there are fewer than 5 images; the
            message names the panel.
    """
    from matplotlib.lines import Line2D

    if not embeddings:
        raise ValueError("`embeddings` is empty")
    checked = {title: _checked(title, *columns) for title, columns in embeddings.items()}
    fakes = list(
        dict.fromkeys(
            name
            for _, labels, generators, _ in checked.values()
            for name, value in zip(generators, labels, strict=True)
            if value == 1
        )
    )
    looks: dict[str, Look] = {
        name: {"color": COLOURS[(place + 1) % len(COLOURS)], "marker": MARKERS[1 + place % (len(MARKERS) - 2)]}
        for place, name in enumerate(fakes)
    }
    real: Look = {"color": COLOURS[0], "marker": "o", "markerfacecolor": "none"}
    anchors: tuple[Look, Look] = ({"color": COLOURS[0], "marker": "*"}, {"color": COLOURS[1], "marker": "*"})
    anchor: Look = {"linestyle": "none", "markeredgecolor": "black", "markersize": 12, "zorder": 4}
    point: Look = {"linestyle": "none", "markersize": 3, "markeredgewidth": 0.5, "alpha": 0.8}
    columns = min(3, len(checked))
    entries = len(fakes) + 3
    figure = new_figure(0.3 + 2.3 * -(-len(checked) // columns) + 0.17 * -(-entries // 4))
    for axes, (title, (images, labels, generators, text)) in zip(
        panels(figure, len(checked), columns), checked.items(), strict=True
    ):
        places = _map(np.concatenate([images, text]), seed)
        axes.plot(*places[:-2][labels == 0].T, **point, **real)
        for name in fakes:
            chosen = (labels == 1) & (generators == name)
            axes.plot(*places[:-2][chosen].T, **point, **looks[name])
        for place, look in zip(places[-2:], anchors, strict=True):
            axes.plot(*place, **anchor, **look)
        axes.set_title(label(title, 40))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
    handles = [Line2D([], [], **point, **real)] + [Line2D([], [], **point, **looks[name]) for name in fakes]
    handles += [Line2D([], [], **anchor, **look) for look in anchors]
    names = ["real", *(label(name) for name in fakes), "text: real", "text: fake"]
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def _checked(title: str, images, labels, generators, text) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    images, text = np.asarray(images, dtype=np.float64), np.asarray(text, dtype=np.float64)
    labels, generators = np.asarray(labels), np.asarray(generators, dtype=object)
    if images.ndim != 2 or text.shape != (2, images.shape[-1]):
        raise ValueError(f"{title!r}: embeddings must be (N, D) and (2, D), got {images.shape} and {text.shape}")
    if labels.shape != (len(images),) or generators.shape != labels.shape:
        raise ValueError(
            f"{title!r}: {len(images)} images, {len(labels)} labels and {len(generators)} generators don't fit"
        )
    if not np.isfinite(images).all() or not np.isfinite(text).all():
        raise ValueError(f"{title!r}: an embedding isn't finite")
    if len(images) < _LEAST_IMAGES:
        raise ValueError(f"{title!r}: {len(images)} images are too few for a map, at least {_LEAST_IMAGES} are needed")
    return images, labels, generators, text


def _map(points: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of points (N, D), started from their principal components: (N, 2)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)
    with threadpool_limits(1):  # sums over threads come out a little different every time
        start = PCA(2, random_state=seed).fit_transform(points)  # (N, 2)
        # As small as in sklearn; from components alone every seed would give one map.
        start = 1e-4 * start / max(start.std(), 1e-12)
        start += np.random.default_rng(seed).normal(scale=1e-5, size=start.shape)
        return TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(points)


__all__ = ["embedding_map"]
