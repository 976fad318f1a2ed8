"""Measure the built model in Foundry Local: the pass rate of each skill on held-back prompts.

    python tools/demo_model/evaluate.py [--model DIR] [--json] [--failures N]

Deterministic (temperature 0). The exit status is 0 whatever the rates are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_recipe.engine import DemoEngine, EngineError
from demo_recipe.evaluation_sets import MOST_ANSWER_TOKENS, Case, Skill, all_skills

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "fastapi_foundry" / "demo_model"


@dataclass(frozen=True)
class Outcome:
    """What one case came to; ``answer`` is the model's message or the engine's error."""

    case: Case
    right: bool
    answer: str


def run_case(engine: DemoEngine, case: Case) -> Outcome:
    """Send the request and check the answer; an engine error counts as wrong."""
    try:
        answer = engine.answer({**case.request, "max_tokens": MOST_ANSWER_TOKENS})
    except EngineError as error:
        return Outcome(case, right=False, answer=f"error: {error}")
    choice = answer["choices"][0]
    message = choice["message"]
    shown = json.dumps(message.get("tool_calls")) if message.get("tool_calls") else message.get("content") or ""
    return Outcome(case, case.is_right(choice), f"({choice['finish_reason']}) {shown}")


def summary(skill: Skill, outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """Counts and rates of one skill."""
    parts = Counter(o.case.part for o in outcomes)
    right = Counter(o.case.part for o in outcomes if o.right)
    passed = sum(right.values())
    shown = skill.name != "product"
    return {
        "skill": skill.name,
        "passed": passed,
        "cases": len(outcomes),
        "rate": round(passed / len(outcomes), 4),
        "seconds": round(seconds, 1),
        "parts": {part: f"{right[part]}/{count}" for part, count in sorted(parts.items())} if shown else {},
    }


def print_table(results: list[dict[str, Any]]) -> None:
    """A line for each skill, and what it is made of."""
    print(f"{'skill':<10} {'passed':>9} {'rate':>7}  parts")
    for result in results:
        counts = f"{result['passed']}/{result['cases']}"
        parts = ", ".join(f"{part} {count}" for part, count in result["parts"].items())
        print(f"{result['skill']:<10} {counts:>9} {result['rate']:>7.1%}  {parts}")


def main() -> None:
    """Run all cases and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="directory of the built model")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--failures", type=int, default=0, help="show this many failures of each skill")
    parser.add_argument("--skill", help="run this skill alone")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch, DemoEngine(options.model, Path(scratch)) as engine:
        for skill in all_skills():
            if options.skill not in {None, skill.name}:
                continue
            begin = time.monotonic()
            outcomes = [run_case(engine, case) for case in skill.cases]
            results.append(summary(skill, outcomes, time.monotonic() - begin))
            for outcome in [o for o in outcomes if not o.right][: options.failures]:
                last = outcome.case.request["messages"][-1]["content"]
                lines = f"asked:    {last}\nexpected: {outcome.case.expected}\nanswered: {outcome.answer}\n"
                print(f"[{skill.name}, {outcome.case.part}]\n{lines}", file=sys.stderr)
    if options.json:
        print(json.dumps({"model": "foundry-demo:1", "skills": results}, indent=1))
    else:
        print_table(results)


if __name__ == "__main__":
    main()
