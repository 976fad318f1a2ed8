"""The figures of a run as tables, and beside each bar of the project whether it holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.proxies.load import Whole
from benchmarks.proxies.streams import Streamed

DIRECT, NGINX, GATEWAY = "direct", "nginx", "gateway"
Turn = tuple[Whole, Whole, Streamed]
Figure = Callable[[Turn], float]


@dataclass(frozen=True)
class Start:
    """A start: seconds to the first answer, memory at idle and with 500 streams open (None: not taken), in 10^6 bytes."""

    took_s: float
    idle_mb: float
    open_mb: float | None

    def more_mb(self) -> float | None:
        return None if self.open_mb is None else self.open_mb - self.idle_mb


@dataclass(frozen=True)
class Round:
    """What everyone did in one round; None for who failed. ``foreign``: what other programs took meanwhile, at most."""

    turns: dict[str, Turn | None]
    foreign: float

    def plain(self) -> dict[str, Any]:
        turns: dict[str, Any] = {}
        for name, turn in self.turns.items():
            turns[name] = None
            if turn is not None:
                many, one, streams = turn
                turns[name] = {"16 clients": asdict(many), "1 client": asdict(one), "100 streams": asdict(streams)}
        return {"foreign": self.foreign, "turns": turns}


@dataclass(frozen=True)
class Bar:
    """A bar: the figure must be at least ``least``, or at most ``most``."""

    name: str
    figure: float | None
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def holds(self) -> bool:
        """False too where nothing was measured."""
        if self.figure is None:
            return False
        least, most = self.least, self.most
        return (least is None or self.figure >= least) and (most is None or self.figure <= most)

    def __str__(self) -> str:
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        if self.figure is None:
            return f"{self.name:46} {'-':>10} {bound + self.unit:>14}  not measured"
        return f"{self.name:46} {self.figure:10.2f} {bound + self.unit:>14}  {'holds' if self.holds else 'MISSED'}"


def median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def over_rounds(rounds: Sequence[Round], name: str, figure: Figure) -> float | None:
    return median(figure(turn) for each in rounds if (turn := each.turns.get(name)) is not None)


def ratio(
    rounds: Sequence[Round], name: str, other: str, figure: Figure, *, above_direct: bool = False
) -> float | None:
    """The median of the rounds' ratios; with ``above_direct``, of what each adds to asking the stub itself."""
    ratios = []
    for each in rounds:
        turn, beside, floor = each.turns.get(name), each.turns.get(other), each.turns.get(DIRECT)
        if turn is None or beside is None or floor is None:
            continue
        less = figure(floor) if above_direct else 0.0
        if figure(beside) > less:
            ratios.append((figure(turn) - less) / (figure(beside) - less))
    return median(ratios)


def difference(rounds: Sequence[Round], name: str, other: str, figure: Figure) -> float | None:
    pairs = [(each.turns.get(name), each.turns.get(other)) for each in rounds]
    return median(figure(turn) - figure(beside) for turn, beside in pairs if turn is not None and beside is not None)


def bars(rounds: Sequence[Round], starts: Sequence[Start]) -> list[Bar]:
    def to(other: str, figure: Figure, *, above_direct: bool = False) -> float | None:
        return ratio(rounds, GATEWAY, other, figure, above_direct=above_direct)

    first = difference(rounds, GATEWAY, NGINX, lambda turn: turn[2].first_ms)
    return [
        Bar("16 clients: requests/s, to vllm-router's", to("vllm-router", lambda turn: turn[0].per_s), least=2),
        Bar("16 clients: requests/s, to nginx's", to(NGINX, lambda turn: turn[0].per_s), least=0.3),
        Bar("16 clients: requests/s, to LiteLLM's", to("litellm", lambda turn: turn[0].per_s), least=200),
        Bar(
            "16 clients: CPU a request", over_rounds(rounds, GATEWAY, lambda turn: turn[0].cpu_us), most=90, unit=" us"
        ),
        Bar("1 client: added p50, to nginx's", to(NGINX, lambda turn: turn[1].p50_us, above_direct=True), most=2),
        Bar("1 client: added p99, to nginx's", to(NGINX, lambda turn: turn[1].p99_us, above_direct=True), most=3),
        Bar("100 streams: CPU a chunk, to nginx's", to(NGINX, lambda turn: turn[2].cpu_us), most=2),
        Bar("100 streams: p99 jitter, to nginx's", to(NGINX, lambda turn: turn[2].jitter_ms), most=2),
        Bar("100 streams: first byte, later than nginx's", first, most=0.5, unit=" ms"),
        Bar("memory at idle", median(start.idle_mb for start in starts), most=100, unit=" MB"),
        Bar(
            "memory, more with 500 streams open",
            median(start.more_mb() for start in starts),
            most=60,
            unit=" MB",
        ),
        Bar("start to the first answer", median(start.took_s for start in starts), most=1, unit=" s"),
    ]


def show(rounds: Sequence[Round], starts: dict[str, list[Start | None]]) -> None:
    """Print everything: medians over the rounds, ratios as medians of the rounds' ratios."""
    print(f"Medians of {len(rounds)} rounds; other programs took up to {max(each.foreign for each in rounds):.0%}.")
    _whole("16 clients", rounds, 0)
    _whole("1 client", rounds, 1)
    _streams(rounds)
    _starts(starts)
    made = [start for start in starts.get(GATEWAY, []) if start is not None]
    print(f"\n{'the bars, for the gateway':46} {'figure':>10} {'bar':>14}")
    for bar in bars(rounds, made):
        print(bar)


def _table(title: str, heads: Sequence[str], rows: Iterable[tuple[str, Sequence[float | None]]]) -> None:
    print(f"\n{title:14}" + "".join(f"{head:>14}" for head in heads))
    for name, figures in rows:
        print(f"{name:14}" + "".join(f"{'-':>14}" if each is None else f"{each:>14,.2f}" for each in figures))


def _whole(title: str, rounds: Sequence[Round], case: int) -> None:
    def figure(field: str) -> Figure:
        return lambda turn: float(getattr(turn[case], field))

    heads = ("requests/s", "of nginx's", "p50 us", "added p50", "added p99", "CPU us", "share of core")
    rows = []
    for name in rounds[0].turns:
        rate = over_rounds(rounds, name, figure("per_s")), ratio(rounds, name, NGINX, figure("per_s"))
        added = [difference(rounds, name, DIRECT, figure(each)) for each in ("p50_us", "p99_us")]
        own = [over_rounds(rounds, name, figure(each)) for each in ("cpu_us", "core")]
        rows.append((name, (*rate, over_rounds(rounds, name, figure("p50_us")), *added, *own)))
    _table(title, heads, rows)


def _streams(rounds: Sequence[Round]) -> None:
    def figure(field: str) -> Figure:
        return lambda turn: float(getattr(turn[2], field))

    heads = (
        "chunks/s",
        "came through",
        "CPU us/chunk",
        "of nginx's",
        "p50 way us",
        "p99 jitter ms",
        "of nginx's",
        "first ms",
    )
    rows = []
    for name in rounds[0].turns:
        flow = [over_rounds(rounds, name, figure(each)) for each in ("per_s", "kept_up", "cpu_us")]
        way = [over_rounds(rounds, name, figure(each)) for each in ("way_us", "jitter_ms")]
        cpu, jitter = (ratio(rounds, name, NGINX, figure(each)) for each in ("cpu_us", "jitter_ms"))
        rows.append((name, (*flow, cpu, *way, jitter, over_rounds(rounds, name, figure("first_ms")))))
    _table("100 streams", heads, rows)


def _starts(starts: dict[str, list[Start | None]]) -> None:
    rows = []
    for name, made in starts.items():
        known = [start for start in made if start is not None]
        figures: Iterable[Callable[[Start], float | None]] = (
            lambda start: start.took_s,
            lambda start: start.idle_mb,
            lambda start: start.more_mb(),
        )
        rows.append((name, [median(map(figure, known)) for figure in figures]))
    _table("a start", ("seconds", "idle MB", "500 streams: +"), rows)
