"""What ``whole_way`` has measured, in words and beside the bars."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil
from benchmarks.engine.ways import Way

MOST_ADDED_S = 0.0012
"""To an answer, at p50."""
MOST_SHARE = 0.05
"""Of the decode time, for a streamed token."""
RESAMPLES = 1000

Pair = tuple[float, float]


@dataclass
class Series:
    """What was measured of one way: a row for each round."""

    way: Way
    rows: list[dict[str, float]] = field(default_factory=list)

    def column(self, name: str) -> list[float]:
        """One figure of every round."""
        return [row[name] for row in self.rows]


@dataclass
class Measured:
    """The rounds that count, and how many cores others used meanwhile."""

    series: list[Series]
    others_cores: float


def report_whole(title: str, measured: Measured) -> None:
    """A line for each way, then what an answer costs on each hop of the longest."""
    series = measured.series
    print(f"\n{title}; others used {measured.others_cores:.2f} of {psutil.cpu_count()} cores")
    print(f"{'':16}{'p10':>9}{'p50':>9}{'p99':>9}   added to the direct session at p50")
    direct = series[0].column("end")
    for each in series:
        times = each.column("end")
        shown = (1e3 * percentile(times, percent) for percent in (10, 50, 99))
        line = f"{each.way.name:16}" + "".join(f"{value:6.2f} ms" for value in shown)
        if each is not series[0]:
            line += "   {:.2f} ms ({:.2f} to {:.2f})".format(*(1e3 * value for value in added(times, direct)))
        print(line)
    spent = cpu_by_process(series)
    print("CPU until the answer: " + ", ".join(f"{name} {1e6 * value:.0f} us" for name, value in spent.items()))
    total = added(series[-1].column("end"), direct)
    said = verdict(total, MOST_ADDED_S)
    print(f"the whole way adds {1e3 * total[0]:.2f} ms, bar {1e3 * MOST_ADDED_S:.1f} ms: {said}")


def report_streams(title: str, measured: Measured, tokens: int) -> None:
    """A line for each way, then what a token costs on each hop of the longest."""
    series = measured.series
    print(f"\n{title}; others used {measured.others_cores:.2f} of {psutil.cpu_count()} cores")
    print(f"{'':16}{'first':>9}{'token':>10}{'quartiles':>16}   a token's wall time beside the direct session")
    direct = series[0].column("token")
    decode_s = statistics.median(direct)
    for each in series:
        times = each.column("token")
        low, middle, high = (1e3 * value for value in statistics.quantiles(times, n=4))
        first = 1e3 * statistics.median(each.column("first"))
        line = f"{each.way.name:16}{first:6.1f} ms{middle:7.3f} ms{low:8.3f}-{high:.3f}"
        if each is not series[0]:
            values = added_in_a_round(times, direct)
            line += "   {:+.0f} us ({:+.0f} to {:+.0f})".format(*(1e6 * value for value in values))
            line += f" = {values[0] / decode_s:+.1%}"
        print(line)
    said = verdict(added_in_a_round(series[-1].column("token"), direct), MOST_SHARE * decode_s)
    print(f"wall time of a token, bar {MOST_SHARE:.0%} of the decode time: {said}")
    report_cpu(series, tokens, decode_s)


def report_cpu(series: Sequence[Series], tokens: int, decode_s: float) -> None:
    """CPU time of a token, and its share of the decode time."""
    parts = ", ".join(f"{name} {1e6 * value / tokens:.0f} us" for name, value in cpu_by_process(series).items())
    longest, engine = series[-1], series[0]
    columns = [longest.column(f"cpu {name}") for name in longest.way.processes]
    total = [sum(row) for row in zip(*columns, strict=True)]
    shares = [value / tokens / decode_s for value in added_in_a_round(total, engine.column(f"cpu {engine.way.name}"))]
    said = verdict(shares, MOST_SHARE)
    told = "{:.1%} ({:.1%} to {:.1%}) of the decode time".format(*shares)
    print(f"CPU for a token: {parts}; together {told}, bar {MOST_SHARE:.0%}: {said}")


def verdict(found: Sequence[float], most: float) -> str:
    """Whether a figure is at most the bar; ``found`` are the figure and between what it lies."""
    return "held" if max(found) <= most else "MISSED" if min(found) > most else "cannot be told from so few rounds"


def added(longer: Sequence[float], shorter: Sequence[float]) -> tuple[float, float, float]:
    """The difference of the medians, and between what it lies in 19 cases of 20."""
    pairs = list(zip(longer, shorter, strict=True))
    return with_bounds(
        pairs, lambda chosen: statistics.median(x for x, _ in chosen) - statistics.median(y for _, y in chosen)
    )


def added_in_a_round(longer: Sequence[float], shorter: Sequence[float]) -> tuple[float, float, float]:
    """The median of the rounds' differences, which the machine's slower and faster minutes change less."""
    pairs = list(zip(longer, shorter, strict=True))
    return with_bounds(pairs, lambda chosen: statistics.median(x - y for x, y in chosen))


def with_bounds(pairs: Sequence[Pair], figure: Callable[[Sequence[Pair]], float]) -> tuple[float, float, float]:
    """A figure, and between what it lies in 19 of 20 samples drawn from the rounds."""
    dice = random.Random(0)
    drawn = sorted(figure(dice.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return figure(pairs), drawn[RESAMPLES // 40], drawn[-RESAMPLES // 40]


def cpu_by_process(series: Sequence[Series]) -> dict[str, float]:
    """CPU seconds that each of our processes spends until the end of an answer.

    What it does later, such as writing the log, is not in it; the engine's own work is taken off the runner's.
    """
    longest, engine = series[-1], series[0]
    spent = {name: statistics.median(longest.column(f"cpu {name}")) for name in longest.way.processes}
    spent["runner"] -= statistics.median(engine.column(f"cpu {engine.way.name}"))
    return spent


def percentile(values: Sequence[float], percent: int) -> float:
    """The nearest one that was measured."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
