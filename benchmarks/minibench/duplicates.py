"""Whether two photographs show one scene: a difference hash, and matched ORB keypoints.

The hash finds the same picture at another size; the keypoints find a tighter crop, which the hash misses.
"""

import numpy as np
from PIL import Image

BITS_APART = 50  # of the hash's 256
MATCHES = 15  # that agree on one similarity transform


def near_duplicates(images: dict[str, Image.Image]) -> list[list[str]]:
    """Groups of photographs of one scene; one that resembles no other is a group of its own."""
    names = list(images)
    hashes = np.stack([difference_hash(images[name]) for name in names])
    features = [keypoints(images[name]) for name in names]
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(names)):
        close = (hashes[i] != hashes[:i]).sum(1) <= BITS_APART
        for j in range(i):
            if root(i) != root(j) and (close[j] or same_scene(features[i], features[j])):
                parent[root(i)] = root(j)
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(names):
        groups.setdefault(root(i), []).append(name)
    return list(groups.values())


def difference_hash(image: Image.Image) -> np.ndarray:
    """(256,) booleans: whether each of 16 x 16 blocks is brighter than its left neighbour."""
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return (grey[:, 1:] > grey[:, :-1]).ravel()


def keypoints(image: Image.Image, side: int = 384, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 2) and binary descriptors (n, 256) of at most `count` ORB corners, of the image within `side`²."""
    from skimage.feature import ORB

    small = image.convert("L")
    small.thumbnail((side, side))
    orb = ORB(n_keypoints=count, fast_threshold=0.05)
    try:
        orb.detect_and_extract(np.asarray(small, np.float64) / 255)
    except RuntimeError:  # no corner at all: nothing to match
        return np.zeros((0, 2)), np.zeros((0, 256), bool)
    return np.asarray(orb.keypoints), np.asarray(orb.descriptors)


def same_scene(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether at least `MATCHES` mutual matches agree on one similarity transform."""
    from skimage.measure import ransac
    from skimage.transform import SimilarityTransform

    if min(len(a[1]), len(b[1])) < MATCHES:
        return False
    first, second = a[1].astype(np.float32), b[1].astype(np.float32)
    differing = first.sum(1)[:, None] + second.sum(1) - 2 * first @ second.T  # bits of 256, exact in float32
    distances = differing / first.shape[1]  # (n, m)
    forward, backward = distances.argmin(1), distances.argmin(0)
    index = np.arange(len(forward))
    mutual = (backward[forward] == index) & (distances[index, forward] < 0.25)
    if mutual.sum() < MATCHES:
        return False
    source, target = a[0][mutual], b[0][forward[mutual]]
    model, inliers = ransac(
        (source, target), SimilarityTransform, min_samples=3, residual_threshold=3, max_trials=200, rng=0
    )
    return model is not None and inliers is not None and bool(inliers.sum() >= MATCHES)
