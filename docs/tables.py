"""The tables of these pages that are made from the package, and the drawing of a job's states:
`python docs/tables.py` writes them.

`tests/test_docs.py` fails when one of them is not what this file makes.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from runninghub_async import Catalogue
from runninghub_async._cli._parser import build_parser
from runninghub_async._codes import CODES
from runninghub_async._retry import Cause, Retry, RetryPolicy, Verdict, decide_submit
from runninghub_async._states import ENDED, MOVES

DOCS = Path(__file__).resolve().parent
DRAWING = DOCS / "_static" / "states.svg"

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


def states() -> str:
    """A row for each move that a job may make."""
    lines = ["| from | to | when |", "|---|---|---|"]
    for old, moves in MOVES.items():
        lines += [f"| `{old}` | `{new}` | {when} |" for new, when in moves.items()]
    return "\n".join(lines)


def prices() -> str:
    """A row for each source and date of prices: how many models have theirs from there."""
    taken = Counter((s.price.as_of, s.price.source) for s in Catalogue.load() if s.price)
    lines = ["| taken from | as of | models |", "|---|---|---|"]
    lines += [f"| {source} | {date} | {taken[date, source]} |" for date, source in sorted(taken)]
    unknown = sum(spec.price is None for spec in Catalogue.load())
    return "\n".join([*lines, f"| no source has one | | {unknown} |"])


TABLES = {
    "money.md": ("prices", prices),
    "errors.md": ("codes", codes),
    "cli.md": ("commands", commands),
    "journal.md": ("states", states),
}


def with_tables(page: str, text: str) -> str:
    """`text` of the page with its table as it is to be."""
    name, make = TABLES[page]
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page}: no place for the table {name}")
    return f"{before}{start}\n{make()}\n{end}{after}"


# -- the drawing of the states --------------------------------------------------------------------

#: Left, top, width and height of each state's box.
BOXES = {
    "new": (20, 130, 104, 40),
    "submitting": (180, 130, 112, 40),
    "accepted": (348, 130, 112, 40),
    "running": (516, 130, 104, 40),
    "succeeded": (676, 92, 112, 78),
    "stored": (844, 92, 104, 78),
    "partly_stored": (716, 226, 112, 40),
    "cancelled": (84, 36, 536, 32),
    "refused": (120, 226, 104, 40),
    "unknown": (330, 226, 104, 40),
    "failed": (20, 322, 600, 32),
}

#: The corners of each move's line, from box to box; the last one has the arrow's head.
LINES = {
    ("new", "submitting"): ((124, 142), (180, 142)),
    ("new", "failed"): ((36, 170), (36, 322)),
    ("new", "stored"): ((52, 130), (52, 16), (896, 16), (896, 92)),
    ("submitting", "new"): ((180, 158), (124, 158)),
    ("submitting", "accepted"): ((292, 150), (348, 150)),
    ("submitting", "refused"): ((190, 170), (190, 226)),
    ("submitting", "failed"): ((240, 170), (240, 322)),
    ("submitting", "unknown"): ((258, 170), (258, 254), (330, 254)),
    ("submitting", "succeeded"): ((260, 130), (260, 100), (676, 100)),
    ("submitting", "cancelled"): ((220, 130), (220, 68)),
    ("refused", "new"): ((120, 246), (106, 246), (106, 170)),
    ("refused", "submitting"): ((210, 226), (210, 170)),
    ("refused", "failed"): ((172, 266), (172, 322)),
    ("accepted", "running"): ((460, 150), (516, 150)),
    ("accepted", "succeeded"): ((428, 130), (428, 116), (676, 116)),
    ("accepted", "failed"): ((447, 170), (447, 322)),
    ("accepted", "cancelled"): ((388, 130), (388, 68)),
    ("running", "succeeded"): ((620, 150), (676, 150)),
    ("running", "failed"): ((568, 170), (568, 322)),
    ("running", "cancelled"): ((568, 130), (568, 68)),
    ("succeeded", "stored"): ((788, 150), (844, 150)),
    ("succeeded", "partly_stored"): ((732, 170), (732, 226)),
    ("partly_stored", "succeeded"): ((772, 226), (772, 170)),
    ("partly_stored", "stored"): ((828, 246), (896, 246), (896, 170)),
    ("stored", "succeeded"): ((844, 116), (788, 116)),
    ("failed", "new"): ((58, 322), (58, 170)),
    ("failed", "accepted"): ((456, 322), (456, 170)),
    ("cancelled", "new"): ((100, 68), (100, 130)),
    ("unknown", "accepted"): ((390, 226), (390, 170)),
    ("unknown", "submitting"): ((330, 238), (276, 238), (276, 170)),
    ("unknown", "new"): ((382, 266), (382, 294), (82, 294), (82, 170)),
}

#: How a job goes when nothing comes in between.
STRAIGHT = ("new", "submitting", "accepted", "running", "succeeded", "stored")

#: Of colours that stand out from a white page as from a black one.
STYLE = """\
path { fill: none; stroke: #808a94; stroke-width: 1.5; }
.straight { stroke-width: 3; }
.asked { stroke-dasharray: 5 4; }
rect { fill: #2f6fb0; }
.ended rect { fill: #6b5b95; }
text { font: 14px sans-serif; text-anchor: middle; fill: #fff; }
.legend text { text-anchor: start; fill: #808a94; }
"""


def drawing() -> str:
    """The states as boxes, and every move of the table as a line between two of them."""
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 968 404" role="img">',
        "<title>The states of a job, and its moves</title>",
        f"<style>\n{STYLE}</style>",
    ]
    for heads, size in (("head", 7), ("straight-head", 4.5)):
        lines.append(
            f'<marker id="{heads}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="{size}"'
            f' markerHeight="{size}" orient="auto"><path d="M0 0L10 5L0 10z"'
            ' style="fill: #808a94; stroke: none"/></marker>'
        )
    lines += [_line(old, new, when) for old, moves in MOVES.items() for new, when in moves.items()]
    ended = {state.value for state in ENDED}
    for name, (x, y, width, height) in BOXES.items():
        kind = ' class="ended"' if name in ended else ""
        lines.append(
            f'<g{kind}><rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
            f'<text x="{x + width / 2:g}" y="{y + height / 2 + 5:g}">{name}</text></g>'
        )
    lines.append(_legend())
    return "\n".join([*lines, "</svg>\n"])


def _line(old: str, new: str, when: str) -> str:
    straight = (old, new) in itertools.pairwise(STRAIGHT)
    names = ["straight"] * straight + ["asked"] * when.startswith("the user")
    kind = f' class="{" ".join(names)}"' if names else ""
    corners = "L".join(f"{x} {y}" for x, y in LINES[old, new])
    head = "straight-head" if straight else "head"
    return (
        f'<path{kind} d="M{corners}" marker-end="url(#{head})">'
        f"<title>{old} to {new}: {escape(when)}</title></path>"
    )


def _legend() -> str:
    return (
        '<g class="legend">'
        '<rect x="20" y="376" width="16" height="16" rx="3"/>'
        '<text x="44" y="389">a resumed run continues it</text>'
        '<g class="ended"><rect x="272" y="376" width="16" height="16" rx="3"/></g>'
        '<text x="296" y="389">it leaves it as it is</text>'
        '<path class="asked" d="M468 384L508 384"/>'
        '<text x="518" y="389">only if you ask for it</text>'
        "</g>"
    )


if __name__ == "__main__":
    for page in TABLES:
        path = DOCS / page
        path.write_text(with_tables(page, path.read_text("utf-8")), "utf-8")
    DRAWING.write_text(drawing(), "utf-8")
