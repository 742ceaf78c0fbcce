"""The checks of the project: `nox` is the daily run, `nox -s full` is everything in full size.

CONTRIBUTING.md has a table of the sessions: what each is for, and how long it takes. Missing
interpreters are skipped with a message.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import nox

nox.needs_version = ">=2024.10.9"
DAILY = ["lint", "tests"]
nox.options.sessions = DAILY
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
LOWEST = {
    "aiohttp": "3.14.4",
    "attrs": "24.2.0",
    "cattrs": "24.1.0",
    "anyio": "4.6.0",
    "aiolimiter": "1.2.0",
}
PYPROJECT = nox.project.load_toml("pyproject.toml")

#: Much of the suite waits for processes and clocks, so more workers than cores are useful.
WORKERS = str(max(4, os.cpu_count() or 1))
#: The duration of tests varies a lot: an idle worker takes tests from another one.
PARALLEL = ("-n", WORKERS, "--dist", "worksteal")

#: What `nox -s full` adds to the daily sessions. `.ci/run` runs the same, some in part.
SLOW = ["long", "pythons", "loops", "minimums", "typing", "docs", "browser"]

#: Tests that do not depend on the loop: of values, of the command, of the emulator's answers.
NO_LOOP = (
    "cli", "cli_families", "cli_journal", "docs", "documented", "emulator_families", "fuzz",
    "layers", "models", "protocol", "rules", "store_machine", "typed", "whole",
)  # fmt: skip
#: Tests that make no calls to libraries beyond those that other tests make.
NO_OTHER_CALLS = (
    "cli", "cli_families", "cli_journal", "docs", "emulator_families", "fuzz", "typed", "whole",
)  # fmt: skip


def installed(version: str) -> bool:
    """Whether this machine has this Python, and it starts."""
    found = shutil.which(f"python{version}")
    # A name on the path may be a shim for a Python that is missing.
    return (
        found is not None
        and not subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode
    )


def newest() -> str:
    """The newest of the Pythons that this machine has."""
    return next((version for version in reversed(PYTHONS) if installed(version)), OWN)


def wait_for_others() -> IO[str] | None:
    """Keep two runs in one clone from sharing `.nox`: the second starts when the first has ended.

    Runs in different clones do not wait for each other.
    """
    if not {"-l", "--list", "--list-sessions", "-h", "--help", "--version"}.isdisjoint(sys.argv):
        return None
    try:
        import fcntl
    except ImportError:  # as on Windows
        return None
    folder = Path(__file__).parent / ".nox"
    folder.mkdir(exist_ok=True)
    file = (folder / "lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("Another nox is running in this clone. Waiting for it to end.", flush=True)  # noqa: T201
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


# The lock lasts as long as the file is open.
LOCK = wait_for_others()


def group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, name)


def install_wheel(session: nox.Session, *more: str) -> None:
    """Build the wheel and install it, so that what is checked is what users get."""
    out = Path(session.create_tmp()).resolve() / "dist"
    for old in out.glob("*.whl"):
        old.unlink()
    # Wheels only: a checkout that is built through an sdist would hide a file missing from it.
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out), ".")
    (wheel,) = out.glob("*.whl")
    session.install(f"runninghub_async[emulator] @ {wheel.as_uri()}", *more)
    # The version is the same each time, so that pip would keep the last one.
    session.install("--force-reinstall", "--no-deps", str(wheel))


def run_pytest(session: nox.Session, *words: str, **env: str) -> None:
    """Run the tests of the installed wheel."""
    # Not -m pytest, which would put the checkout before the wheel.
    session.run("pytest", *PARALLEL, *words, *session.posargs, env=env)


def without(names: tuple[str, ...]) -> list[str]:
    """Options that leave out these files of tests."""
    return [f"--ignore=tests/test_{name}.py" for name in names]


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, the linter and the formatter."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """The daily suite, on the Python that runs nox, with the gate on branch coverage."""
    install_wheel(session, *group("tests"))
    # In the session's own folder: not among the data of another run.
    data = {"COVERAGE_FILE": str(Path(session.create_tmp()).resolve() / "coverage")}
    pytest = str(Path(session.bin) / "pytest")
    session.run("coverage", "erase", env=data)
    session.run(
        "coverage", "run", pytest, *PARALLEL, "-m", "not long", *session.posargs, env=data
    )  # fmt: skip
    session.run("coverage", "combine", "--quiet", env=data)
    if session.posargs:
        session.warn("Skipped: the gate on coverage, since only a part of the tests was run")
        return
    session.run("coverage", "report", env=data)


@nox.session
def long(session: nox.Session) -> None:
    """The long tests: killed processes, storms, the code on the pages, the examples."""
    install_wheel(session, *group("tests"), *group("examples"))
    run_pytest(session, "-m", "long")


@nox.session(python=False)
def pythons(session: nox.Session) -> None:
    """The daily suite on each other Python that is installed."""
    for version in PYTHONS:
        if version == OWN:
            session.log(f"Python {version} is the one of the session tests")
        elif installed(version):
            session.notify(f"suite-{version}")
        else:
            session.warn(f"Skipped: Python {version} is not installed")


@nox.session(python=PYTHONS)
def suite(session: nox.Session) -> None:
    """The daily suite on one Python, without coverage; `nox -s pythons` runs each."""
    install_wheel(session, *group("tests"))
    run_pytest(session, "-m", "not long")


@nox.session(python=newest())
def loops(session: nox.Session) -> None:
    """The tests of the engine on uvloop, and with tasks that start at once (Python 3.12)."""
    install_wheel(session, *group("tests"))
    run_pytest(session, "-m", "not long", *without(NO_LOOP), TEST_LOOP="uvloop")
    if session.python == "3.11":
        session.warn("Skipped: eager tasks need Python 3.12, which is not installed")
        return
    run_pytest(session, "-m", "not long", *without(NO_LOOP), TEST_LOOP="eager")


@nox.session(python=PYTHONS[0])
def minimums(session: nox.Session) -> None:
    """The calls, on the lowest versions that pyproject.toml promises."""
    pins = [f"{name}=={version}" for name, version in LOWEST.items()]
    install_wheel(session, *group("tests"), *pins)
    run_pytest(session, "-m", "not long", *without(NO_OTHER_CALLS))


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict over everything, pyright over the package and over how it is used."""
    session.install("-e", ".[emulator]", *group("typing"), *group("bench"))
    session.run("mypy")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages of docs/ as HTML, with every warning an error. Their code runs in tests/."""
    session.install("-e", ".", *group("docs"))
    out = Path("docs/_build/html")
    # Build every page: one that did not change may have lost the target of a link.
    session.run("sphinx-build", "-E", "-a", "-q", "-n", "-W", "--keep-going", "docs", str(out))
    session.log(f"open {out}/index.html in a browser")


@nox.session
def browser(session: nox.Session) -> None:
    """The contact sheet in a real Chromium, which has to be on the PATH."""
    install_wheel(session, *group("tests"))
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """20,000 bodies of any bytes, and 4,000 of known shape, for each call that reads an answer."""
    install_wheel(session, *group("tests"))
    run_pytest(session, "--timeout=1800", "tests/test_fuzz.py", FUZZ_EXAMPLES="20000")


@nox.session
def crash(session: nox.Session) -> None:
    """A run of 300 jobs that is killed at 100 moments and resumed, and tests with full disks."""
    install_wheel(session, *group("tests"))
    run_pytest(
        session, "--timeout=600", "tests/test_crash.py", "tests/test_power_cut.py",
        CRASH_MOMENTS="100",
    )  # fmt: skip


@nox.session(python=False)
def full(session: nox.Session) -> None:
    """Everything but the benchmarks, in full size: more examples, more moments, more repeats."""
    # The sessions that follow run in this process, and their tests read it.
    os.environ["TEST_SIZE"] = "full"
    for name in (*DAILY, *SLOW, "fuzz", "crash"):
        session.notify(name)


@nox.session
def bench(session: nox.Session) -> None:
    """One table, ratios first; `nox -s bench -- cpu_per_job --quick` for a part of it."""
    install_wheel(session, *group("bench"))
    session.run("python", "-m", "benchmarks", *session.posargs)
