"""What each command takes. What it does is imported when it is called, so that one command does
not load what another needs."""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib
import inspect
import ipaddress
import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from .._states import JobState

__all__ = ["build_parser"]

_STATUS = """\
exit status: 0 done, 1 failed (the task, the service, or nothing found), 2 usage or journal error,
3 stopped by key, plan, balance or budget, 129 terminal closed, 130 interrupted, 143 terminated.
COMMAND --help lists the options of a command.
The key is taken from RUNNINGHUB_API_KEY, proxies from HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
"""

_GENERATE = """\
PROMPTS is a .txt file (a prompt a line), a .csv or .jsonl file (columns or keys are the request's
fields, such as prompt, width, height), or - for a prompt a line on standard input. Lists in a .csv
cell are separated by |; @PATH in a field for pictures, videos or audio uploads a file. DIR gets a
file per result, manifest.jsonl and index.html. With a journal, run the command again to resume.

exit status: 0 all done, 1 some not, 2 usage or journal error, 3 stopped by key, plan, balance or
budget, 129 terminal closed, 130 interrupted, 143 terminated
"""

_RESUME = """\
Tasks that run are followed, results that are not stored yet are fetched, and jobs that were never
submitted are submitted. Folder and origin are those of the run. The exit
status is that of generate.
"""

_RETRY = """\
Name at least one of --failed, --unknown and --cancelled. If no job can be retried, nothing is done
and the exit status is 1; otherwise it is that of generate. Jobs with an invalid input line stay
failed: correct the input, and run generate with the same journal.
"""

_STATES = tuple(state.value for state in JobState)

_RUNS = f"""\
STATE is one of {", ".join(_STATES[:6])},
{", ".join(_STATES[6:])}.
If the output is not a terminal, --watch prints a line every five seconds.
"""

_EXPORT = """\
Times are ISO 8601 in UTC; names of files, and URLs, are separated by |. In CSV, a text that begins
with = + - or @ gets an apostrophe before it, so that no spreadsheet takes it for a formula; JSON
lines are exact, and have the whole request.
"""

_SET = """\
VALUE is read as a number or a boolean if it looks like one, unless the input is known to take
text; @PATH uploads a file, @@x is the text @x. The task's id is printed on standard error as
soon as there is one.
"""

_PARAM = """\
Lists are separated by |; @PATH in a field for pictures, videos or audio uploads a file. Fields that
are optional and not given have their documented defaults; `models MODEL` shows them.
"""


@functools.cache
def build_parser() -> argparse.ArgumentParser:
    """The whole command line; `run` of what it parses is the command."""
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="runninghub-async",
        description="Generate with RunningHub's API: many at once, none billed twice, none lost.",
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _uncoloured(parser)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_generate,
        _add_resume,
        _add_retry,
        _add_runs,
        _add_export,
        _add_run,
        _add_price,
        _add_models,
        _add_workflow,
        _add_app,
        _add_quick,
        _add_task,
        _add_progress,
        _add_upload,
        _add_account,
        _add_resources,
        _add_assets,
        _add_webhook,
        _add_comfyui,
        _add_emulator,
    ):
        add(commands)
    return parser


# -- many at once, and without the service --------------------------------------------------------


def _add_generate(commands: Any) -> None:
    command = _command(
        commands, "generate", "a file of prompts in, a folder of pictures and a page out", _GENERATE
    )
    command.add_argument("prompts", metavar="PROMPTS", help=".txt, .csv, .jsonl, or -")
    command.add_argument("--out", required=True, metavar="DIR", help="the folder for the results")
    command.add_argument(
        "--model",
        default="seedream-v5-lite/text-to-image",
        metavar="NAME",
        help="path or documented name (default %(default)s)",
    )
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a field for every request; fields in the input override it",
    )
    command.add_argument("--limit", type=_count, metavar="N", help="take only the first N requests")
    command.add_argument(
        "--journal", metavar="FILE", help="record every job there, and resume the jobs it holds"
    )
    command.add_argument(
        "--reuse",
        action="store_true",
        help="use results and running tasks of equal requests in the journal",
    )
    _add_pace(command)
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--emulator", action="store_true", help="run against a built-in stand-in, without a key"
    )
    where.add_argument("--base-url", metavar="URL", help="the service's origin")
    command.set_defaults(run=_late("_generate", "generate"))


def _add_resume(commands: Any) -> None:
    command = _command(
        commands, "resume", "resume the jobs of a journal, without its input", _RESUME
    )
    _add_journal(command)
    _add_resumed(command)
    command.set_defaults(run=_late("_journaled", "resume"))


def _add_retry(commands: Any) -> None:
    command = _command(
        commands, "retry", "queue failed jobs for retry, then do what `resume` does", _RETRY
    )
    _add_journal(command)
    command.add_argument("--failed", action="store_true", help="failed jobs")
    command.add_argument("--code", metavar="N", help="only failed jobs with the service's code N")
    command.add_argument(
        "--unknown",
        action="store_true",
        dest="unknown_ones",
        help="submits whose answers were lost; tasks that they created are billed again",
    )
    command.add_argument(
        "--cancelled", action="store_true", help="cancelled jobs; they are billed again"
    )
    _add_resumed(command, unknown=False)
    command.set_defaults(run=_late("_journaled", "retry"), unknown="hold")


def _add_runs(commands: Any) -> None:
    command = _command(commands, "runs", "show the progress of a run, live or finished", _RUNS)
    _add_journal(command)
    _add_state(command, "list the jobs in this state")
    _add_limit(command)
    how = command.add_mutually_exclusive_group()
    _add_json(how)
    how.add_argument("--watch", action="store_true", help="refresh until the run ends")
    command.set_defaults(run=_late("_overview", "show_runs"))


def _add_export(commands: Any) -> None:
    command = _command(commands, "export", "the jobs of a journal as a table", _EXPORT)
    _add_journal(command)
    command.add_argument(
        "--format", choices=("csv", "jsonl"), required=True, help="a table, or JSON lines"
    )
    _add_state(command, "only the jobs in this state")
    command.add_argument("-o", "--output", metavar="FILE", help="default: standard output")
    command.set_defaults(run=_late("_export", "export"))


def _add_journal(command: argparse.ArgumentParser) -> None:
    command.add_argument("journal", metavar="JOURNAL", help="the file that --journal named")


def _add_state(command: argparse.ArgumentParser, tells: str) -> None:
    command.add_argument("--state", type=str.lower, choices=_STATES, metavar="STATE", help=tells)


def _add_resumed(command: argparse.ArgumentParser, *, unknown: bool = True) -> None:
    command.add_argument("--out", metavar="DIR", help="the folder, if it is another one now")
    command.add_argument(
        "--no-check", action="store_true", help="do not look at the files that are stored"
    )
    _add_pace(command, unknown=unknown)
    command.add_argument("--base-url", metavar="URL", help="the origin, if it is another one now")


def _add_networks(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--result-network",
        action="append",
        default=[],
        type=_network,
        metavar="CIDR",
        help="fetch results from addresses in this private network, too, such as 198.18.0.0/15",
    )


def _add_pace(command: argparse.ArgumentParser, *, unknown: bool = True) -> None:
    command.add_argument(
        "--rate", type=_positive, default=10.0, metavar="R", help="submits per second (default 10)"
    )
    command.add_argument(
        "--concurrency",
        type=_count,
        default=50,
        metavar="N",
        help="tasks alive at the service at once (default 50)",
    )
    command.add_argument(
        "--budget",
        type=_budget,
        metavar="AMOUNT",
        help="the most to spend, such as 50, '50 CNY' or '1000 coins'",
    )
    _add_networks(command)
    if unknown:
        command.add_argument(
            "--unknown",
            choices=("hold", "resubmit"),
            default="hold",
            help="a submit whose answer was lost: hold it (default), or risk a second bill",
        )
    command.add_argument(
        "--on-cancel",
        choices=("detach", "cancel", "wait"),
        default="detach",
        help="on Ctrl+C, tasks that run: let them (default), cancel them, or wait for them",
    )


def _add_emulator(commands: Any) -> None:
    command = _command(
        commands, "emulator", "serve a stand-in for the API on loopback until stopped"
    )
    command.add_argument("--port", type=int, default=0, metavar="N", help="default: a free one")
    command.add_argument(
        "--duration",
        type=_seconds,
        default=8.0,
        metavar="S",
        help="seconds a task takes, half to one and a half times (default 8)",
    )
    command.add_argument(
        "--max-concurrency", type=_count, default=50, metavar="N", help="default 50; then 421"
    )
    command.add_argument("--rate", type=_positive, metavar="N", help="requests/s; then 1003")
    command.add_argument(
        "--faults",
        metavar="NAME_OR_FILE",
        help="what goes wrong: a script's name, such as bad-weather, or a JSON list of rules",
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed for everything random"
    )
    command.add_argument("--api-key", metavar="KEY", help="the only key to take; default: any")
    command.add_argument(
        "--key-type",
        choices=("SHARED", "NORMAL", "EXCLUSIVE"),
        default="SHARED",
        metavar="TYPE",
        help="SHARED (default), NORMAL or EXCLUSIVE",
    )
    command.add_argument(
        "--webhook-form",
        choices=("auto", "A", "B", "C", "D"),
        default="auto",
        metavar="FORM",
        help="of events: A, B, C, D or auto (default)",
    )
    command.set_defaults(run=_late("_emulate", "emulate"))


def _add_models(commands: Any) -> None:
    command = _command(commands, "models", "search the catalogue, or show one model")
    command.add_argument("words", nargs="*", metavar="WORDS", help="words, or a model's name")
    command.add_argument("--count", action="store_true", help="only how many there are")
    _add_json(command)
    command.set_defaults(run=_late("_models", "show_models"))


# -- standard models ------------------------------------------------------------------------------


def _add_run(commands: Any) -> None:
    command = _command(commands, "run", "one request for a standard model", _PARAM)
    _add_model(command)
    _add_ending(command, progress=False)
    _add_service(command)
    command.set_defaults(run=_late("_standard", "run_model"))


def _add_price(commands: Any) -> None:
    command = _command(
        commands, "price", "what a request would cost, by the catalogue or the service", _PARAM
    )
    _add_model(command)
    command.add_argument(
        "--ask", action="store_true", help="ask the service, too; without it no key is needed"
    )
    _add_service(command)
    command.set_defaults(run=_late("_standard", "show_price"))


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="path or documented name")
    command.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="a field of the request"
    )


# -- workflows and apps ---------------------------------------------------------------------------


def _add_workflow(commands: Any) -> None:
    actions = _family(commands, "workflow", "a saved ComfyUI workflow: its nodes, and runs of it")
    show = _command(actions, "show", "the inputs of its nodes; --json gives the graph")
    show.add_argument("id", metavar="ID", help="the digits of its page's address")
    _add_service(show)
    show.set_defaults(run=_late("_workflows", "show_workflow"))
    run = _command(actions, "run", "run the workflow", _SET)
    run.add_argument("id", metavar="ID", help="the digits of its page's address")
    _add_set(run)
    run.add_argument(
        "--graph", metavar="FILE", help="run this graph (JSON, API format) in its place"
    )
    run.add_argument(
        "--no-metadata", action="store_true", help="keep the prompt out of the pictures"
    )
    _add_machine(run)
    _add_ending(run)
    _add_service(run)
    run.set_defaults(run=_late("_workflows", "run_workflow"))


def _add_app(commands: Any) -> None:
    actions = _family(commands, "app", "AI apps: the public ones, their inputs, and runs of them")
    listed = _command(actions, "list", "the public apps")
    listed.add_argument(
        "--sort",
        type=str.upper,
        choices=("RECOMMEND", "HOTTEST", "NEWEST"),
        default="RECOMMEND",
        metavar="ORDER",
        help="recommend (default), hottest or newest",
    )
    listed.add_argument("--days", type=_count, metavar="N", help="only those of the last N days")
    _add_limit(listed)
    _add_service(listed)
    listed.set_defaults(run=_late("_apps", "list_apps"))
    show = _command(actions, "show", "its inputs")
    show.add_argument("id", metavar="ID", help="the digits of its page's address")
    _add_service(show)
    show.set_defaults(run=_late("_apps", "show_app"))
    run = _command(actions, "run", "run the app; its inputs are looked up first", _SET)
    run.add_argument("id", metavar="ID", help="the digits of its page's address")
    _add_set(run)
    run.add_argument("--quick-create-code", metavar="CODE", help="a quick-create module of the app")
    _add_machine(run)
    _add_ending(run)
    _add_service(run)
    run.set_defaults(run=_late("_apps", "run_app"))


def _add_quick(commands: Any) -> None:
    actions = _family(commands, "quick", "quick create: its style models, and runs of it")
    styles = _command(actions, "styles", "the style models of an app")
    styles.add_argument("id", metavar="APP", help="the app's id")
    styles.add_argument("--kind", type=int, default=2, metavar="N", help="their type (default 2)")
    _add_service(styles)
    styles.set_defaults(run=_late("_apps", "quick_styles"))
    run = _command(actions, "run", "run a module of an app", _SET)
    run.add_argument("id", metavar="APP", help="the app's id")
    run.add_argument("--code", required=True, metavar="CODE", help="the module's, such as 002")
    _add_set(run)
    run.add_argument("--webhook-url", metavar="URL", help="called when the task ends")
    _add_ending(run)
    _add_service(run)
    run.set_defaults(run=_late("_apps", "run_quick"))


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.FIELD=VALUE",
        help="a value for an input of a node",
    )


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--instance-type", metavar="TYPE", help="default, plus (48 GB) or ultra")
    command.add_argument(
        "--use-personal-queue", action="store_true", help="wait in the exclusive key's own queue"
    )
    command.add_argument(
        "--retain-seconds", type=int, metavar="N", help="keep the machine for 10 to 180 s; billed"
    )
    command.add_argument("--access-password", metavar="P", help="if it asks for one")
    command.add_argument("--webhook-url", metavar="URL", help="called when the task ends")
    command.add_argument(
        "--api", choices=("v1", "v2"), default="v1", help="which endpoint (default v1)"
    )


# -- tasks ----------------------------------------------------------------------------------------


def _add_task(commands: Any) -> None:
    command = _command(commands, "task", "the status of a task; exit status 1 if it failed")
    command.add_argument("id", metavar="ID", help="the task's id")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--wait", action="store_true", help="until it has ended")
    how.add_argument("--cancel", action="store_true", help="ask the service to cancel it first")
    how.add_argument("--older", action="store_true", help="use the older endpoint for outputs")
    how.add_argument(
        "--status", action="store_true", help="its status alone, from the older endpoint"
    )
    command.add_argument("--download", metavar="DIR", help="put its results there")
    _add_timeout(command)
    _add_networks(command)
    _add_service(command)
    command.set_defaults(run=_late("_tasks", "show_task"))


def _add_progress(commands: Any) -> None:
    command = _command(
        commands, "progress", "the events of a workflow's or app's run, as they happen"
    )
    command.add_argument("id", metavar="TASK_ID", help="the task's id")
    _add_service(command, "a line of JSON per event")
    command.set_defaults(run=_late("_tasks", "show_progress"))


# -- the account and its things -------------------------------------------------------------------


def _add_upload(commands: Any) -> None:
    command = _command(commands, "upload", "upload files; prints the resulting file names and URLs")
    command.add_argument("files", nargs="+", metavar="FILE")
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--older", action="store_true", help="use the older endpoint; gives a name only"
    )
    how.add_argument("--lora", action="store_true", help="as LoRAs for RHLoraLoader nodes")
    command.add_argument("--name", metavar="N", help="what to call a single file")
    _add_service(command, "a line of JSON per file")
    command.set_defaults(run=_late("_upload", "upload_files"))


def _add_account(commands: Any) -> None:
    command = _command(commands, "account", "coins and wallet, the key's slots, or the keys")
    command.add_argument(
        "what",
        nargs="?",
        choices=("status", "queue", "keys"),
        default="status",
        help="default status",
    )
    _add_service(command)
    command.set_defaults(run=_late("_account", "show_account"))


def _add_resources(commands: Any) -> None:
    command = _command(commands, "resources", "model files that workflows can load")
    command.add_argument(
        "kind",
        type=str.upper,
        choices=("UNET", "CHECKPOINT", "LORA", "GGUF"),
        metavar="KIND",
        help="unet, checkpoint, lora or gguf",
    )
    command.add_argument("--name", metavar="TEXT", help="a part of their names")
    command.add_argument(
        "--base-model", action="append", default=[], metavar="NAME", help="only for this one"
    )
    command.add_argument(
        "--tag", action="append", default=[], metavar="TEXT", help="only with this tag"
    )
    _add_limit(command)
    _add_service(command)
    command.set_defaults(run=_late("_library", "list_resources"))


def _add_assets(commands: Any) -> None:
    command = _command(commands, "assets", "the asset library, which some video models draw on")
    command.add_argument(
        "verb",
        choices=("create", "list", "query", "update", "delete"),
        metavar="VERB",
        help="create, list, query, update or delete",
    )
    command.add_argument(
        "fields", nargs="?", default="{}", metavar="JSON", help="the call's fields, as an object"
    )
    command.add_argument("--group", action="store_true", help="groups of assets")
    _add_service(command)
    command.set_defaults(run=_late("_library", "call_assets"))


def _add_webhook(commands: Any) -> None:
    actions = _family(commands, "webhook", "the delivery of webhooks")
    show = _command(actions, "show", "the delivery of a task's event")
    show.add_argument("id", metavar="TASK_ID", help="the task's id")
    _add_service(show)
    show.set_defaults(run=_late("_hooks", "show_webhook"))
    resend = _command(actions, "resend", "deliver an event again")
    resend.add_argument("id", metavar="EVENT_ID", help="as `webhook show` prints it")
    resend.add_argument("--url", metavar="URL", help="another address to deliver it to")
    _add_service(resend)
    resend.set_defaults(run=_late("_hooks", "resend_webhook"))


def _add_comfyui(commands: Any) -> None:
    command = _command(
        commands, "comfyui", "the address for ComfyUI clients; exit status 1 if none answers there"
    )
    command.add_argument("--plus", action="store_true", help="the machines with 48 GB")
    command.add_argument("--show-key", action="store_true", help="with the key, as clients need it")
    _add_service(command)
    command.set_defaults(run=_late("_comfyui", "show_comfyui"))


# -- what they share ------------------------------------------------------------------------------


def _command(commands: Any, name: str, tells: str, epilog: str = "") -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=tells,
        description=f"{tells[0].upper()}{tells[1:]}.",
        epilog=epilog or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _uncoloured(command)
    return command


def _uncoloured(parser: argparse.ArgumentParser) -> None:
    """From Python 3.14 on, argparse writes control sequences to terminals; here only progress
    does."""
    vars(parser)["color"] = False


def _family(commands: Any, name: str, tells: str) -> Any:
    family = _command(commands, name, tells)
    return family.add_subparsers(dest="action", required=True, metavar="ACTION")


def _add_json(command: argparse._ActionsContainer, tells: str = "JSON instead of a table") -> None:
    command.add_argument("--json", action="store_true", help=tells)


def _add_service(command: argparse.ArgumentParser, json: str = "JSON instead of a table") -> None:
    command.add_argument("--base-url", metavar="URL", help="the service's origin")
    _add_json(command, json)


def _add_ending(command: argparse.ArgumentParser, *, progress: bool = True) -> None:
    how = command.add_mutually_exclusive_group()
    how.add_argument("--no-wait", action="store_true", help="submit only")
    how.add_argument("--out", metavar="DIR", help="put the results there")
    _add_timeout(command)
    _add_networks(command)
    command.set_defaults(progress=False, cancel=False)
    if progress:
        command.add_argument(
            "--progress", action="store_true", help="show what happens on standard error"
        )


def _add_timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout", type=_positive, metavar="S", help="wait for at most S seconds"
    )


def _add_limit(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--limit", type=_count, default=50, metavar="N", help="at most N (default 50)"
    )


def _late(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """The command `name` of `module`, which is imported when it is called."""

    def run(args: argparse.Namespace) -> int:
        status: Any = getattr(importlib.import_module(f"{__package__}.{module}"), name)(args)
        return int(asyncio.run(status) if inspect.iscoroutine(status) else status)

    return run


def _positive(text: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _seconds(text: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"expected seconds, got {text}")
    return value


def _budget(text: str) -> tuple[Decimal, str]:
    """An amount and a currency, which may be left out."""
    number, _, currency = text.strip().partition(" ")
    currency = currency.strip()
    try:
        value = Decimal(number)
    except InvalidOperation:
        value = Decimal(0)
    if not (value.is_finite() and value > 0) or not (not currency or currency.isalpha()):
        raise argparse.ArgumentTypeError(f"expected an amount such as 50 or '50 CNY', got {text}")
    return value, "coins" if currency.lower() in {"coin", "coins"} else currency.upper()


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected a network such as 198.18.0.0/15: {error}"
        ) from None


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
