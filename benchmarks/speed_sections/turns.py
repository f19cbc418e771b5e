"""Timing by turns: every way once in a round, round after round, so that what disturbs one disturbs the others.

Ratios are taken within a round and their median over rounds is reported: the speed of a shared machine drifts by a
third within minutes, which cancels within a round.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from measuring import OtherPrograms, synchronize

DISTURBED = 0.05  # share of the machine that other programs may take in a round that counts


@dataclass(frozen=True)
class Settings:
    """
    How a section is to run.

    Args:
        device (`str`): `"cpu"` or `"cuda"`.
        dry (`bool`): Tiny models and few rounds, to see that it works; the figures mean nothing.
        repeats (`int`): Rounds.
    """

    device: str
    dry: bool
    repeats: int


@dataclass(frozen=True)
class Spread:
    """Median, least and most of a few values."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(*(float(f"{value:.5g}") for value in (statistics.median(values), min(values), max(values))))


@dataclass
class Turns:
    """
    Seconds of every way in every round, and the share of the machine that other programs took in each.

    Args:
        seconds (`dict[str, list[float]]`): Way to its wall-clock seconds, round by round.
        others (`list[float]`): Largest share within each round.
    """

    seconds: dict[str, list[float]]
    others: list[float]

    @property
    def quiet(self) -> list[int]:
        """Numbers of the rounds in which the machine was quiet."""
        return [number for number, share in enumerate(self.others) if share <= DISTURBED]

    @property
    def counted(self) -> list[int]:
        """Numbers of the quiet rounds; of all if none was."""
        return self.quiet or list(range(len(self.others)))

    def each(self, way: str, items: int = 1) -> Spread:
        """Seconds for one of `items`."""
        return Spread.of([self.seconds[way][number] / items for number in self.counted])

    def ratio(self, way: str, alternative: str) -> Spread:
        """Time of a way as a multiple of the alternative's in the same round."""
        mine, theirs = self.seconds[way], self.seconds[alternative]
        return Spread.of([mine[number] / theirs[number] for number in self.counted])


def take_turns(ways: Mapping[str, Callable[[], object]], settings: Settings, warm_up: int = 1) -> Turns:
    """
    Times ways by turns, wall clock.

    Args:
        ways (`Mapping[str, Callable[[], object]]`):
            Name to what is timed. A way that returns a `float` has timed itself: these are its seconds.
        settings ([`Settings`]):
            Rounds and device; a GPU is waited for.
        warm_up (`int`, *optional*, defaults to 1):
            Rounds before those that count.
    """
    for _ in range(warm_up):
        for way in ways.values():
            way()
    turns = Turns({name: [] for name in ways}, [])
    for number in range(settings.repeats):
        shares = []
        # Every other round backwards: no way always follows the same one.
        for name in list(ways) if number % 2 == 0 else reversed(ways):
            synchronize(settings.device)
            with OtherPrograms() as programs:
                begin = time.perf_counter()
                stated = ways[name]()
                synchronize(settings.device)
                seconds = time.perf_counter() - begin
            turns.seconds[name].append(float(f"{stated if isinstance(stated, float) else seconds:.6g}"))
            shares.append(programs.share)
        turns.others.append(round(max(shares), 3))
    return turns


def matrix_peak(device: str, dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """Most floating-point operations in a second that a large matrix product reaches here, with as many threads."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats + 1):
        synchronize(device)
        begin = time.perf_counter()
        left @ right
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


__all__ = ["Settings", "Spread", "Turns", "matrix_peak", "take_turns"]
