"""The tables of these pages that are made from the package: `python docs/tables.py` writes them.

`tests/test_docs.py` fails when one of them is not what this file makes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from runninghub_async._cli._parser import build_parser
from runninghub_async._codes import CODES
from runninghub_async._retry import Cause, Retry, RetryPolicy, Verdict, decide_submit

DOCS = Path(__file__).resolve().parent

_WORDS = {
    Cause.CAPACITY: "waits for a free slot, then sends it again",
    Cause.RATE: "pauses for everybody, then sends it again",
    Verdict.FAILED: "refused: `Failed`",
    Verdict.STOP: "refused, and nothing more is submitted",
    Verdict.UNKNOWN: "may exist: `Unknown`, not sent again",
}


def codes() -> str:
    """A row for each code of the service: its meaning, its error, what it does to a submit."""
    lines = ["| code | meaning | error | a submit |", "|---|---|---|---|"]
    for code, row in CODES.items():
        decision = decide_submit(RetryPolicy(), row.error(row.meaning, code=code), 1)
        what = _WORDS[decision.cause if isinstance(decision, Retry) else decision.verdict]
        lines.append(f"| {code} | {row.meaning} | `{row.error.__name__}` | {what} |")
    return "\n".join(lines)


def commands() -> str:
    """A section for each command: how it is called, and what its arguments mean."""
    return "\n\n".join(_section(parser) for parser in leaves(build_parser()))


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The commands below `parser` that have none below them."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for command in action.choices.values():
            yield from leaves(command)


def _section(parser: argparse.ArgumentParser) -> str:
    lines = [f"### {parser.prog}", ""]
    if parser.description:
        lines += [parser.description, ""]
    lines += ["| argument | |", "|---|---|"]
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            lines.append(f"| {_argument(action)} | {_meaning(action)} |")
    if parser.epilog:
        lines += ["", " ".join(parser.epilog.split("\n\n")[0].split())]
    return "\n".join(lines)


def _argument(action: argparse.Action) -> str:
    name = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper())
    if action.option_strings:
        words = action.option_strings[0] + (f" {name}" if action.nargs != 0 else "")
    else:
        words = {"?": f"[{name}]", "*": f"[{name} …]", "+": f"{name} …"}.get(
            str(action.nargs), name
        )
    return f"`{words}`".replace("|", "\\|")


def _meaning(action: argparse.Action) -> str:
    told = (action.help or "").replace("%(default)s", f"`{action.default}`").replace("|", "\\|")
    again = " (may be given again)" if isinstance(action, argparse._AppendAction) else ""
    must = " (required)" if action.required and action.option_strings else ""
    return f"{told}{again}{must}"


TABLES = {"errors.md": ("codes", codes), "cli.md": ("commands", commands)}


def with_tables(page: str, text: str) -> str:
    """`text` of the page with its table as it is to be."""
    name, make = TABLES[page]
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{make()}\n{end}{rest.partition(end)[2]}"


if __name__ == "__main__":
    for page in TABLES:
        path = DOCS / page
        path.write_text(with_tables(page, path.read_text("utf-8")), "utf-8")
