"""Results of a benchmark run, made by hand: nasty names, a one-class set, undefined metrics, published rows, nulls."""

from mirage_hf.benchmark_metrics import METRICS

SCRIPT = "<script>alert('1')</script>"
NASTY = "50%_of|$x$ & #1 {a} ~^\\ [b] *c* `d`"
ONE_CLASS = "[only]_reals"
SETS = ("Midjourney", SCRIPT, NASTY, ONE_CLASS)
KEPT_FOR_REALS = ("real_accuracy", "calibrated_real_accuracy")


def block(start: float, keys=tuple(METRICS)) -> dict:
    """Metrics that all differ, with intervals of unequal arms; what is not in `keys` is undefined."""
    values = {key: round(start + 0.0131 * place, 4) if key in keys else None for place, key in enumerate(METRICS)}
    intervals = {key: None if value is None else (value - 0.021, value + 0.012) for key, value in values.items()}
    return {"metrics": values, "intervals": intervals}


def scored(start: float, null: dict | None, **counts) -> dict:
    keys = tuple(METRICS) if counts["n_fake"] else KEPT_FOR_REALS
    return {"skipped": 0, "null": null} | counts | block(start, keys)


def make_null(value: float | None) -> dict:
    interval = None if value is None else (value - 0.03, value + 0.03)
    return {"balanced_accuracy": value, "interval": interval, "roc_auc": value, "n": 40}


def view(start: float, nulls: tuple, description: str, skipped: int = 0, **more) -> dict:
    return {
        "description": description,
        "sets": {
            "Midjourney": scored(start, nulls[0], n_real=6000, n_fake=6000, skipped=skipped),
            SCRIPT: scored(start + 0.1, nulls[1], n_real=20, n_fake=30),
            NASTY: scored(start + 0.2, nulls[2], n_real=7, n_fake=11),
            ONE_CLASS: scored(start + 0.3, None, n_real=1234, n_fake=0),
        },
        "mean": block(start + 0.1) | {"over": ["Midjourney", SCRIPT, NASTY]},
        "null": nulls[0] and make_null(0.617),
        "representation": None,
    } | more


def make_results() -> dict:
    distances = {
        "real_variation": 0.1234,
        "fake_variation": 1.2341,
        "intra_class_variation": 1.3456,
        "inter_class_separation": None,
    }
    return {
        "schema_version": 1,
        "protocol": {
            "name": "genimage",
            "title": "GenImage & co",
            "source": "Zhu et al., https://arxiv.org/abs/2306.08571",
            "metrics": ["accuracy", "average_precision"],
            "threshold": 0.5,
            "mean_over": "eight generators",
            "trained_on": "Stable Diffusion 1.4",
        },
        "model": {"name": "mirage_tiny", "type": "mirage", "threshold": 0.6712, "parameters": 3300000},
        "environment": {"python": "3.12.1", "device": "<cpu>", "machine": "x86_64"},
        "arguments": {"degrade": ["jpeg_65"], "revision": None, "data": "a & b"},
        "layout": "genimage",
        "refused": {"VQ_DM": "it holds 0 real and 5 fake images, and needs both"},
        "notes": ["The null exceeds 60% on <b>Midjourney</b>"],
        "views": {
            "raw": view(
                0.4017,
                (make_null(0.7123), make_null(0.55), make_null(None)),
                "images as they are",
                skipped=17,
                representation={"Euclidean": distances},
            ),
            "aligned": view(0.3521, (make_null(0.501), make_null(0.49), make_null(0.523)), "cropped, JPEG 96"),
            "jpeg_65": view(0.3333, (None, None, None), "JPEG of quality 65"),
        },
        "published": [
            published("UnivFD", "", "accuracy", {"Midjourney": 0.915, "BigGAN": 0.8765, "mean": 0.794}),
            published("CNN_Det", "trained on A", "accuracy", {"Midjourney": 0.528, "mean": 0.647}),
            published("CNN_Det", "trained on B", "accuracy", {"Midjourney": 0.531, "mean": 0.648}),
            published("Spec|tral", "on <ProGAN>", "average_precision", {"Midjourney": 0.6789}),
        ],
        "published_views": [published("GramNet", "", "accuracy", {"raw": 0.81, "jpeg_65": 0.688, "mean": 0.749})],
    }


def published(method: str, note: str, metric: str, values: dict[str, float]) -> dict:
    return {"method": method, "note": note, "metric": metric, "values": values, "source": "MiraGe, Table 1"}
