"""What a loaded detection data set holds, as a table for people."""

from dataclasses import dataclass, field


@dataclass
class DatasetReport:
    """
    What [`load_detection_dataset`] understood; `str()` gives a table.

    Args:
        root (`str`):
            What was loaded.
        layout (`str`):
            Name of the layout.
        split (`str`):
            The split asked for.
        counts (`dict[str, tuple[int, int]]`):
            Rows with real and with fake images, for each generator.
        skipped (`list[tuple[str, str]]`):
            Path and reason of each image that was left out because it cannot be read.
        ignored (`int`):
            Number of files that are no images.
        notes (`list[str]`):
            Anything else that was decided.
    """

    root: str
    layout: str
    split: str
    counts: dict[str, tuple[int, int]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: int = 0
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        real, fake = (sum(pair[label] for pair in self.counts.values()) for label in (0, 1))
        width = max(len(name) for name in ("generator", *self.counts))
        lines = [
            f"{self.root}: layout {self.layout}, split {self.split}",
            f"{'generator':{width}}  {'real = 0':>9}  {'fake = 1':>9}",
            *(f"{name:{width}}  {pair[0]:9,}  {pair[1]:9,}" for name, pair in self.counts.items()),
            f"{'all':{width}}  {real:9,}  {fake:9,}",
            f"unreadable images left out: {len(self.skipped):,}; other files ignored: {self.ignored:,}",
            *(f"  {path}: {reason}" for path, reason in self.skipped[:20]),
        ]
        if len(self.skipped) > 20:
            lines.append(f"  … and {len(self.skipped) - 20:,} more")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])
