"""Numbers that papers print, carried as data: to stand beside a run of ours, always marked as published, never as run.

The tables lie in `published_tables/*.csv`, percent, as in [MiraGe](https://arxiv.org/abs/2508.01525), which took most
rows of other methods from their papers.
"""

import csv
from importlib import resources
from typing import Any, NamedTuple

TABLES = {
    "genimage_sdv14": "MiraGe, Tables 1 and 11",
    "ufd_acc": "MiraGe, Table 3",
    "ufd_ap": "MiraGe, Table 2",
    "cross_dataset_sdv14": "MiraGe, Tables 5 and 7",
    "chameleon": "MiraGe, Table 9",
    "degradation_genimage": "MiraGe, Table 10",
    "ablation_genimage": "MiraGe, Table 4",
    "mapping": "MiraGe, Table 12",
    "templates_ufd": "MiraGe, Table 14",
    "train_size_ufd": "MiraGe, Table 6",
    "cost_ufd_200k_l40": "MiraGe, Table 13",
}


# A mean of rounded numbers is off by 0.001 at most.
MEAN_TOLERANCE = 0.002


class PublishedTable(NamedTuple):
    """
    A published table as a protocol uses it.

    Args:
        name (`str`):
            Key of `TABLES`.
        metrics (`dict[str, str]`):
            Metric of ours -> column; the column `*` means that every other column is a test set.
        set_column (`str`, *optional*):
            Column that names the test set, where there is a row for each.
        test_set (`str`, *optional*):
            The one test set of the table, where nothing in it says so.
    """

    name: str
    metrics: dict[str, str]
    set_column: str | None = None
    test_set: str | None = None


def read_rows(name: str) -> list[dict[str, str]]:
    """
    The rows of a table as they are, in percent or minutes.

    Raises:
        ValueError: there is no such table.
    """
    if name not in TABLES:
        raise ValueError(f"there is no published table {name!r}: choose one of {', '.join(TABLES)}")
    text = (resources.files(__package__) / "published_tables" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def published_results(tables: tuple[PublishedTable, ...]) -> list[dict[str, Any]]:
    """
    The rows of some tables in one form.

    Returns:
        `list[dict]`: For each method and metric `method`, `note` (what it was trained on, where the table says so; a
        printed mean that isn't the mean of the printed row), `metric`, `values` (fractions by test set, and `mean`
        where printed) and `source`.
    """
    results: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for table in tables:
        for row in read_rows(table.name):
            note = f"trained on {row['train']}" if "train" in row else ""
            for metric, column in table.metrics.items():
                if column == "*":
                    values = {name: value for name, value in row.items() if name not in ("method", "train")}
                else:
                    values = {row[table.set_column] if table.set_column else table.test_set or "": row[column]}
                found = results.setdefault(
                    (table.name, row["method"], note, metric),
                    {
                        "method": row["method"],
                        "note": note,
                        "metric": metric,
                        "values": {},
                        "source": TABLES[table.name],
                    },
                )
                found["values"] |= {name: round(float(value) / 100, 5) for name, value in values.items()}
    for found in results.values():
        own = [value for name, value in found["values"].items() if name != "mean"]
        printed = found["values"].get("mean")
        if printed is not None and abs(printed - sum(own) / len(own)) > MEAN_TOLERANCE:
            found["note"] = f"printed mean {100 * printed:.1f}, the row's is {100 * sum(own) / len(own):.1f}"
    return list(results.values())


__all__ = ["TABLES", "PublishedTable", "published_results", "read_rows"]
