"""`runs`: how the run of a journal stands, also while another process is at it."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any, Final

from .._budget import listed_price
from .._journal import JobRecord
from .._money import Money
from .._names import prompt_of
from .._reader import JournalReader, JournalSummary
from .._states import JobState
from ._manifest import stamp
from ._records import moment
from ._report import at_stake, in_words, outline
from ._tables import amount, cut, facts, print_json, table, tell
from ._terminal import is_broken, live

__all__ = ["show_runs"]

#: Seconds between two looks, on a terminal and elsewhere.
_LIVE: Final = 0.5
_LINES: Final = 5.0


def show_runs(args: argparse.Namespace) -> int:
    """Show a journal, once or until its run ends. Exit status: 0. Raises `JournalError`."""
    with JournalReader(args.journal) as reader:
        if not args.watch:
            _show(reader, reader.summary(), args)
            return 0
        on_terminal = sys.stdout.isatty()
        while True:
            summary = reader.summary()
            if on_terminal:
                print("\x1b[H\x1b[J", end="", file=live(sys.stdout))
                _show(reader, summary, args)
            else:
                tell(_line(summary))
            if not summary.owner or is_broken(sys.stdout):
                return 0
            time.sleep(_LIVE if on_terminal else _LINES)


def _show(reader: JournalReader, summary: JournalSummary, args: argparse.Namespace) -> None:
    records: list[JobRecord] = []
    if args.state:
        records = list(itertools.islice(reader.jobs(JobState(args.state)), args.limit))
    if args.json:
        data = _data(reader.path, summary)
        if args.state:
            data["jobs"] = [_job(record, summary.spent.currency) for record in records]
        print_json(data)
        return
    print(_text(reader.path, summary), flush=True)
    if records:
        print(f"\n{_listed(records, summary.spent.currency)}", flush=True)
        left = summary.states[JobState(args.state)] - len(records)
        if left > 0:
            tell(f"and {left} more; --limit shows them")


def _text(path: str, summary: JournalSummary) -> str:
    told, states = summary.facts, summary.states
    unknown = states[JobState.UNKNOWN] + states[JobState.SUBMITTING]
    rows = [(state.value, count) for state, count in states.items() if count]
    stake = at_stake(unknown, summary.at_stake).partition(": ")[2] if unknown else ""
    count = told.get("count", "")
    partly = told.get("input") and not told.get("enlisted")
    source = told.get("input", "") + (f", {count} requests" if count else "")
    return "\n\n".join(
        [
            table(("state", "jobs"), [*rows, ("all", sum(states.values()))]),
            facts(
                {
                    "spent": in_words(summary.spent.amount, summary.spent.currency) or "nothing",
                    "price not named": in_words(summary.assumed.amount, summary.assumed.currency),
                    "at stake": stake,
                    "rate": f"{summary.ended_per_minute:.1f} ended per minute",
                    "open in": summary.owner or "no process",
                    "begun": told.get("begun"),
                    "input": source + (", not read to its end" if partly else ""),
                    "model": told.get("model"),
                    "folder": told.get("folder"),
                    "service": told.get("base_url"),
                    "journal": path,
                }
            ),
        ]
    )


def _line(summary: JournalSummary) -> str:
    told = [outline(summary.states), in_words(summary.spent.amount, summary.spent.currency)]
    told += [f"{summary.ended_per_minute:.1f}/min", summary.owner or "not running"]
    return "  ".join(text for text in told if text)


def _data(path: str, summary: JournalSummary) -> dict[str, Any]:
    return {
        "journal": path,
        "states": {state.value: count for state, count in summary.states.items()},
        "spent": _money(summary.spent),
        "assumed": _money(summary.assumed),
        "at_stake": [_money(money) for money in summary.at_stake],
        "ended_per_minute": summary.ended_per_minute,
        "owner": summary.owner or None,
        "facts": dict(summary.facts),
    }


def _money(money: Money) -> dict[str, str]:
    return {"amount": amount(money.amount), "currency": money.currency}


def _job(record: JobRecord, currency: str) -> dict[str, Any]:
    price = listed_price(record.request)
    return {
        "place": record.place,
        "key": record.key,
        "state": record.state.value,
        "task_id": record.task.id if record.task else None,
        "sent_at": stamp(moment(record.sent_at)),
        "cost": None if record.cost is None else _money(Money(record.cost, currency)),
        "price_at_most": None if price is None else _money(price),
        "model": record.request.path,
        "prompt": prompt_of(record.request),
        "code": record.code or None,
        "error": record.error or None,
    }


def _listed(records: list[JobRecord], currency: str) -> str:
    """A row each; where a submit's fate is unknown, its price and what happened to its answer."""
    lost = records[0].state in (JobState.UNKNOWN, JobState.SUBMITTING)
    head = ("place", "task", "sent at", "at most" if lost else "cost", "prompt", "error")
    rows = []
    for record in records:
        price = listed_price(record.request) if lost else None
        cost = record.cost if price is None else price.amount
        where = currency if price is None else price.currency
        told = "" if cost is None else f"{amount(cost)} {where}"
        task = record.task.id if record.task else ""
        sent = stamp(moment(record.sent_at)) or ""
        prompt = cut(prompt_of(record.request))
        rows.append((record.place, task, sent, told, prompt, record.error))
    return table(head, rows)
