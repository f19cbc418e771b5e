"""Whether calibration keeps its promises: on scores whose truth is known, and on the mini-benchmark's stored scores.

Writes `calibration.json` and prints it as tables; no images, no network, a minute on one core:

    OMP_NUM_THREADS=1 python benchmarks/calibration.py --out benchmarks/results
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not

from benchmarks.minibench.evidence.storage import Index, read_index, read_scores
from mirage_hf.calibration import Calibration, sigmoid
from mirage_hf.calibration_fit import clopper_pearson, fit_calibration
from mirage_hf.calibration_run import weighted_error

RESULTS = Path(__file__).resolve().parent / "results" / "minibench"
SETTING, SEEN, REALS = "mirage", "realesrgan", ("photo", "bicubic_x2", "bicubic_x4")
UNSEEN = ("realsr", "span", "clearreality", "realcugan", "waifu2x", "datlight", "style", "selfstyle")
ALPHA, MAX_FPR = 0.1, 0.05
DRAWS = 200
VERDICTS = ("real", "unsure", "fake")
# Reals are normal around -1 and fakes around 1, so that 2 x is the true log-odds; the detector says 3 (2 x) - 2.
SIZE, SLOPE, SHIFT, SYNTHETIC_FPR = 200, 6.0, -2.0, 0.15


# ---------------------------------------------------------------------------------------------------- known scores


def draw(rng: np.random.Generator, size: int, real_mean: float = -1.0) -> tuple[np.ndarray, np.ndarray]:
    """Margins and labels of `size` reals and as many fakes."""
    x = np.concatenate([rng.normal(real_mean, 1, size), rng.normal(1, 1, size)])
    return SLOPE * x + SHIFT, np.repeat([0, 1], size)


def quantity(found: Calibration, p_fake: float) -> float:
    """The x of that calibrated probability."""
    margin = found.temperature * (np.log(p_fake / (1 - p_fake)) - found.bias)
    return (margin - SHIFT) / SLOPE


def synthetic(draws: int = DRAWS, real_mean: float = -1.0) -> dict[str, Any]:
    """Calibrations of `draws` sets, judged by the true distributions; `real_mean` shifts what is calibrated on."""
    rng = np.random.default_rng(0)
    test_margins, test_labels = draw(np.random.default_rng(1), 5_000)
    errors, wrong, rates, inside = [], [], [], {0.05: 0, 0.01: 0}
    for _ in range(draws):
        found = fit_calibration(*draw(rng, SIZE, real_mean), max_fpr=SYNTHETIC_FPR, alpha=ALPHA)
        errors.append(weighted_error(found.probability(test_margins), test_labels == 1, 0.5))
        ends = quantity(found, found.unsure_high), quantity(found, found.unsure_low)
        wrong.append([norm.sf(ends[0], -1), norm.cdf(ends[1], 1)])
        rates.append(norm.sf(quantity(found, found.threshold), -1))
        for point in found.operating_points[:2]:
            low, high = point["fpr_interval"]
            inside[point["max_fpr"]] += low <= norm.sf(quantity(found, point["threshold"]), -1) <= high
    reals, fakes = np.transpose(wrong)
    return {
        "draws": draws,
        "reals_and_fakes_each": SIZE,
        "alpha": ALPHA,
        "max_fpr": SYNTHETIC_FPR,
        "ece_before": weighted_error(sigmoid(test_margins), test_labels == 1, 0.5),
        "ece_after": float(np.mean(errors)),
        "reals_judged_fake": mean_with_interval(reals),
        "fakes_judged_real": mean_with_interval(fakes),
        "fpr": mean_with_interval(np.array(rates)),
        "fpr_in_its_interval": {
            str(rate): {"share": count / draws, "interval": list(clopper_pearson(count, draws))}
            for rate, count in inside.items()
        },
    }


def mean_with_interval(column: np.ndarray) -> dict[str, Any]:
    """Mean over independent draws, and its 95% interval."""
    reach = 1.96 * column.std(ddof=1) / np.sqrt(len(column))
    return {"mean": float(column.mean()), "interval": [float(column.mean() - reach), float(column.mean() + reach)]}


# --------------------------------------------------------------------------------------------------- stored scores


def rows_of(index: Index, kinds: tuple[str, ...], split: str | None = None) -> np.ndarray:
    """Row numbers of the images of these kinds, of one split or of both."""
    members = np.isin(index.columns["kind"], kinds)
    return np.flatnonzero(members if split is None else members & (index.columns["split"] == split))


def fit(index: Index, log_odds: np.ndarray, rows: np.ndarray, max_fpr: float = MAX_FPR) -> Calibration:
    """A calibration on some images, every kind of reals being a group."""
    kinds = index.columns["kind"][rows].tolist()
    return fit_calibration(log_odds[rows], index.columns["label"][rows], kinds, max_fpr, ALPHA)


def judge(found: Calibration, log_odds: np.ndarray) -> dict[str, float]:
    """Share of images with each verdict, and above the threshold."""
    p_fake = found.probability(log_odds)
    verdicts = np.array(found.verdicts(p_fake))
    shares = {name: float((verdicts == name).mean()) for name in VERDICTS}
    return shares | {"above_threshold": float((p_fake > found.threshold).mean())}


def from_validation_to_test(index: Index, scores: np.ndarray) -> dict[str, Any]:
    """What a calibration on the validation split is worth on the test split, by generator; means over seeds."""
    fitting, reals = rows_of(index, (*REALS, SEEN), "validation"), rows_of(index, REALS, "test")
    fits = [fit(index, log_odds, fitting) for log_odds in scores]

    def mean(values: list[dict[str, float]]) -> dict[str, float]:
        return {name: float(np.mean([value[name] for value in values])) for name in values[0]}

    def errors(found: Calibration, log_odds: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        both = np.concatenate([reals, rows])
        fake = index.columns["label"][both] == 1
        before, after = (weighted_error(p[both], fake, 0.5) for p in (sigmoid(log_odds), found.probability(log_odds)))
        return {"ece_before": before, "ece_after": after}

    pairs = list(zip(fits, scores, strict=True))
    return {
        "temperature": [found.temperature for found in fits],
        "bias": [found.bias for found in fits],
        "reals": {
            kind: mean([judge(found, log_odds[rows_of(index, (kind,), "test")]) for found, log_odds in pairs])
            for kind in REALS
        },
        "fakes": {
            kind: mean(
                [
                    judge(found, log_odds[rows]) | errors(found, log_odds, rows)
                    for found, log_odds in pairs
                    for rows in [rows_of(index, (kind,), "test")]
                ]
            )
            for kind in (SEEN, *UNSEEN)
        },
    }


def halves(
    index: Index,
    log_odds: np.ndarray,
    draws: int = DRAWS,
    calibrate_on: tuple[str, ...] = REALS,
    max_fpr: float = MAX_FPR,
) -> dict[str, Any]:
    """
    Photographs of both splits dealt out at random, half to calibrate on and half to judge; all versions of a
    photograph stay together. `calibrate_on` names the kinds of reals of the first half: all, or what shifts it. At
    a `max_fpr` well above `ALPHA` the threshold lies inside the band and leaves its ends alone.
    """
    rng = np.random.default_rng(0)
    judged, fitted = rows_of(index, (*REALS, SEEN)), rows_of(index, (*calibrate_on, SEEN))
    photographs = index.columns["photo"]
    names = np.unique(photographs[judged])
    columns: dict[str, list[float]] = {"reals_judged_fake": [], "photos_judged_fake": [], "fakes_judged_real": []}
    columns |= {"ece_before": [], "ece_after": [], "highest_fpr": []}
    for _ in range(draws):
        first = rng.permutation(names)[: len(names) // 2]
        found = fit(index, log_odds, fitted[np.isin(photographs[fitted], first)], max_fpr)
        rest = judged[~np.isin(photographs[judged], first)]
        fake = index.columns["label"][rest] == 1
        of_kind = {kind: judge(found, log_odds[rest[index.columns["kind"][rest] == kind]]) for kind in (*REALS, SEEN)}
        columns["reals_judged_fake"].append(judge(found, log_odds[rest[~fake]])["fake"])
        columns["photos_judged_fake"].append(of_kind["photo"]["fake"])
        columns["fakes_judged_real"].append(of_kind[SEEN]["real"])
        columns["highest_fpr"].append(max(of_kind[kind]["above_threshold"] for kind in REALS))
        columns["ece_before"].append(weighted_error(sigmoid(log_odds[rest]), fake, 0.5))
        columns["ece_after"].append(weighted_error(found.probability(log_odds[rest]), fake, 0.5))
    return {"draws": draws, "photographs": len(names)} | {
        name: {"mean": float(np.mean(values)), "middle_95": [float(q) for q in np.quantile(values, [0.025, 0.975])]}
        for name, values in columns.items()
    }


def measure() -> dict[str, Any]:
    """All of it, as the content of the JSON file."""
    index = read_index(RESULTS)
    _, scores = read_scores(RESULTS, SETTING, index)  # (S, N)
    return {
        "command": "OMP_NUM_THREADS=1 python benchmarks/calibration.py --out benchmarks/results",
        "synthetic": {"same": synthetic(), "shifted_reals": synthetic(real_mean=-1.5)},
        "minibench": {
            "setting": SETTING,
            "seeds": len(scores),
            "alpha": ALPHA,
            "max_fpr": MAX_FPR,
            "validation_to_test": from_validation_to_test(index, scores),
            "halves_of_seed_0": {
                "same": halves(index, scores[0]),
                "band_alone": halves(index, scores[0], max_fpr=0.3),
                "calibrated_on_bicubic_x4": halves(index, scores[0], calibrate_on=("bicubic_x4",)),
            },
        },
    }


def to_markdown(results: dict[str, Any]) -> str:
    """The numbers as tables, in percent."""

    def percent(*shares: float) -> str:
        return " | ".join(f"{100 * share:.1f}" for share in shares)

    columns = ("reals_judged_fake", "fakes_judged_real", "ece_before", "ece_after")
    lines = []
    parts = {"synthetic": results["synthetic"], "halves by photograph": results["minibench"]["halves_of_seed_0"]}
    for title, rows in parts.items():
        lines += [f"| {title} | reals judged fake | fakes judged real | ECE before | ECE after |"]
        lines += ["|---|--:|--:|--:|--:|"]
        for name, row in rows.items():
            values = [row[key]["mean"] if isinstance(row[key], dict) else row[key] for key in columns]
            lines.append(f"| {name} | {percent(*values)} |")
        lines.append("")
    moved = results["minibench"]["validation_to_test"]
    lines += ["| validation to test | judged real | unsure | judged fake | above threshold | ECE before, after |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for name, row in (moved["reals"] | moved["fakes"]).items():
        errors = f"{100 * row['ece_before']:.1f}, {100 * row['ece_after']:.1f}" if "ece_before" in row else ""
        lines.append(f"| {name} | {percent(*(row[key] for key in VERDICTS), row['above_threshold'])} | {errors} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where calibration.json is written")
    out = parser.parse_args().out
    results = measure()
    out.mkdir(parents=True, exist_ok=True)
    (out / "calibration.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(to_markdown(results), end="")


if __name__ == "__main__":
    main()
