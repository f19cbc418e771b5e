"""What a section writes, and the tables made of it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .turns import Spread, Turns

SCHEMA_VERSION = 1
GOALS = ("at most", "at least")


@dataclass(frozen=True)
class Row:
    """
    One comparison.

    Args:
        what (`str`): The way that is measured, a key of the turns.
        alternative (`str`): The one it is compared with, a key of the turns.
        case (`str`): Model, sizes, type: what tells rows of a section apart.
        each ([`Spread`]): Seconds of the way for one item.
        alternative_each ([`Spread`]): Seconds of the alternative for one item.
        ratio ([`Spread`]): Within rounds. Of time, way by alternative, if `goal` is `"at most"`; of speed if it is
            `"at least"`.
        goal (`str`): `"at most"` or `"at least"`.
        bar (`float`, *optional*): What the ratio should reach; `None` where there is only a figure.
        count (`str`): The arithmetic or the bytes on both sides, in words.
        limit (`float`, *optional*): The ratio that follows from the count.
        held_by (`str`): What holds the ratio where it is, from a profile.
    """

    what: str
    alternative: str
    case: str
    each: Spread
    alternative_each: Spread
    ratio: Spread
    goal: str
    bar: float | None
    count: str
    limit: float | None
    held_by: str

    def __post_init__(self):
        if self.goal not in GOALS:
            raise ValueError(f"`goal` must be one of {GOALS}, got {self.goal!r}")

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the bar; `None` without one."""
        if self.bar is None:
            return None
        return self.ratio.median <= self.bar if self.goal == "at most" else self.ratio.median >= self.bar

    @property
    def reached(self) -> float | None:
        """The fraction of the limit that is reached."""
        if self.limit is None:
            return None
        return self.limit / self.ratio.median if self.goal == "at most" else self.ratio.median / self.limit


def compare(
    turns: Turns,
    what: str,
    alternative: str,
    *,
    case: str,
    items: int = 1,
    goal: str = "at most",
    bar: float | None = None,
    count: str,
    limit: float | None = None,
    held_by: str,
) -> Row:
    """A [`Row`] from turns; `items` is how many of them a turn worked through."""
    ratio = turns.ratio(what, alternative) if goal == "at most" else turns.ratio(alternative, what)
    each, theirs = turns.each(what, items), turns.each(alternative, items)
    limit = None if limit is None else float(f"{limit:.4g}")
    return Row(what, alternative, case, each, theirs, ratio, goal, bar, count, limit, held_by)


@dataclass
class Section:
    """
    What a section measured.

    Args:
        title (`str`): A line above its table.
        rows (`list[Row]`): Comparisons.
        turns (`dict[str, Turns]`): Case to the measurements that its rows come from.
        items (`dict[str, int]`): Case to the items of a turn.
        profiles (`dict[str, dict[str, float]]`): What was profiled to shares of its time.
        equality (`dict[str, float]`): What was compared to the largest difference found.
        details (`dict`): Whatever else is worth keeping; JSON values.
        notes (`list[str]`): Sentences below the table.
    """

    title: str
    rows: list[Row]
    turns: dict[str, Turns]
    items: dict[str, int]
    profiles: dict[str, dict[str, float]] = field(default_factory=dict)
    equality: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def section_to_dict(section: Section, **facts: Any) -> dict[str, Any]:
    """For JSON; `facts` (name, command, environment) come first."""
    stated = asdict(section)
    stated["rows"] = [asdict(row) | {"met": row.met} for row in section.rows]
    return {"schema_version": SCHEMA_VERSION} | facts | stated


def section_from_dict(stored: dict[str, Any]) -> Section:
    """
    The section back from its JSON.

    Raises:
        ValueError: another version, or a row that contradicts its own turns.
    """
    if stored["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema_version is {stored['schema_version']}, not {SCHEMA_VERSION}: measure again")
    rows = []
    for row in stored["rows"]:
        spreads = {name: Spread(**row[name]) for name in ("each", "alternative_each", "ratio")}
        rows.append(Row(**{name: value for name, value in row.items() if name != "met"} | spreads))
    turns = {case: Turns(**part) for case, part in stored["turns"].items()}
    for row, kept in zip(rows, stored["rows"], strict=True):
        again = compare(
            turns[row.case],
            row.what,
            row.alternative,
            case=row.case,
            items=stored["items"][row.case],
            goal=row.goal,
            bar=row.bar,
            count=row.count,
            limit=row.limit,
            held_by=row.held_by,
        )
        if again != row or kept["met"] != row.met:
            raise ValueError(f"the row '{row.what}' of {row.case} doesn't follow from its turns")
    names = ("title", "items", "profiles", "equality", "details", "notes")
    return Section(rows=rows, turns=turns, **{name: stored[name] for name in names})


def read_section(file: Path) -> tuple[Section, dict[str, Any]]:
    """A stored section, and the whole of its JSON for the facts beside it."""
    stored = json.loads(file.read_text(encoding="utf-8"))
    return section_from_dict(stored), stored


def table(section: Section) -> str:
    """Markdown of the rows."""
    lines = [
        "| way | against | case | time, ms | ratio (least–most) | bar | limit | of the limit |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in section.rows:
        sign = "≤" if row.goal == "at most" else "≥"
        bar = "" if row.bar is None else f"{sign} {row.bar:g}, {'met' if row.met else '**missed**'}"
        limit = "" if row.limit is None else f"{row.limit:.3g}"
        reached = "" if row.reached is None else f"{row.reached:.0%}"
        unit = "× the time" if row.goal == "at most" else "× as fast"
        lines.append(
            f"| {row.what} | {row.alternative} | {row.case} | {1000 * row.each.median:.4g} | {row.ratio.median:.3g} "
            f"{unit} ({row.ratio.least:.3g}–{row.ratio.most:.3g}) | {bar} | {limit} | {reached} |"
        )
    return "\n".join(lines)


__all__ = ["Row", "Section", "compare", "read_section", "section_from_dict", "section_to_dict", "table"]
