"""Pages made of stored sections: the whole of it, and the part for the project's README."""

from pathlib import Path

from .records import Section, read_section, table

BUSY = " \\*"
README_MARKS = ("<!-- speed: made by benchmarks/speed.py page -->", "<!-- speed: end -->")


def stored_sections(folder: Path) -> list[tuple[Section, dict]]:
    """All sections in a folder of results, by file name."""
    return [read_section(file) for file in sorted(folder.glob("*.json"))]


def make_page(folder: Path) -> str:
    """Every table with the machine, the counts, the profiles and what holds each figure."""
    lines = ["# Speed", "", "Made by `python benchmarks/speed.py page` from the JSON files beside it."]
    for section, stored in stored_sections(folder):
        machine = stored["environment"]
        place = machine["device"] if stored["environment"]["cuda"] else f"{machine['cores']} cores, {machine['cpu']}"
        rounds = ", ".join(
            f"{len(turns.quiet) or 'none'} of {len(turns.others)} ({case})" for case, turns in section.turns.items()
        )
        lines += [
            *("", f"## {section.title}", ""),
            f"`{stored['command']}` on {place}, {machine['threads']} threads; torch {machine['torch']}, transformers "
            f"{machine['transformers']}. Medians of the rounds in which the machine had nothing else to do, of all if "
            f"there was no such round: {rounds}.",
            *("", table(section), ""),
        ]
        for row in section.rows:
            lines.append(f"- *{row.what}, {row.case}*: {row.count} {row.held_by}".rstrip())
        for name, shares in section.profiles.items():
            parts = ", ".join(f"{operator} {share:.0%}" for operator, share in shares.items())
            lines.append(f"- Profile of *{name}*: {parts}.")
        if section.equality:
            found = ", ".join(f"{name} {difference:.1e}" for name, difference in section.equality.items())
            lines.append(f"- Largest differences: {found}.")
        lines += ["", *section.notes] if section.notes else []
    return "\n".join(lines) + "\n"


def readme_part(folder: Path) -> str:
    """Rows that have a bar, one line each."""
    lines = ["| | against | ratio | bar | limit |", "|---|---|--:|--:|--:|"]
    for section, _ in stored_sections(folder):
        for row in section.rows:
            if row.bar is not None:
                sign, unit = ("≤", "× the time") if row.goal == "at most" else ("≥", "× as fast")
                notes = "" if row.met else " (missed)"
                notes += "" if section.turns[row.case].quiet else BUSY
                limit = "" if row.limit is None else f"{row.limit:.3g}"
                lines.append(
                    f"| {row.what}, {row.case} | {row.alternative} | {row.ratio.median:.3g} {unit} | "
                    f"{sign} {row.bar:g}{notes} | {limit} |"
                )
    if any(BUSY in line for line in lines):
        lines += ["", f"{BUSY.strip()} Other programs ran beside all of its rounds: to be measured again."]
    return "\n".join(lines)


def put_between(text: str, marks: tuple[str, str], part: str) -> str:
    """
    The text with what stands between two marks replaced.

    Raises:
        ValueError: a mark is missing.
    """
    begin, end = marks
    if begin not in text or end not in text:
        raise ValueError(f"the text has no {begin if begin not in text else end}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"


__all__ = ["README_MARKS", "make_page", "put_between", "readme_part", "stored_sections"]
