"""Do the tests notice when one place of the code is changed? Mutation testing of the rooms that a run depends on.

    pip install cosmic-ray==8.7.0 pytest-cov==7.0.0
    python benchmarks/mutants.py map                      once: which quick test runs through which line (25 minutes)
    python benchmarks/mutants.py run --sample 300 --out benchmarks/records/DATE_mutants
    python benchmarks/mutants.py again tests/test_metrics.py ... --out benchmarks/records/DATE_mutants

One mutant of cosmic-ray at each of a random sample of places in core, runs and training/checkpoint.py. Those that
change a type hint alone are left out. A mutant is killed when a test that runs through its line fails; the
quickest are asked, for 150 s. Where none does, as when a module is imported, the tests that name the module are
asked. `again` asks other tests about the survivors: those that were not asked for want of time, or are new.
At the end the tests that killed are asked about the code as it is. mutants.jsonl has every judgement; mutants that are
there are not judged twice. Survivors are listed with their change; equal.json says of those that no test could notice,
why. The counts go into docs/reliability.md.
"""

import argparse
import ast
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from subprocess import run
from typing import Any
from xml.etree import ElementTree

import torch

from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "daybreak"
ROOMS = ("core/*.py", "runs/*.py", "training/checkpoint.py")
MAP, TIMES = ROOT / "runs" / "tests.coverage", ROOT / "runs" / "tests.xml"
AT_FIRST, ASKED_SECONDS, SECONDS = 25, 150, 600  # tests; what they took when the map was drawn; what they may take

Row = dict[str, Any]


@dataclass(frozen=True)
class Mutant:
    module: str  # relative to the package
    line: int
    column: int
    operator: str
    occurrence: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("map", "run", "again"))
    parser.add_argument("tests", nargs="*", help="of again: which to ask")
    parser.add_argument("--sample", type=int, default=300, help="places")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "map":
        draw_map()
        return
    if arguments.out is None or not MAP.exists():
        parser.error(f"{arguments.what} needs --out, and the map before it")
    arguments.out.mkdir(parents=True, exist_ok=True)
    known = read(arguments.out)
    if arguments.what == "again":
        missing = [Mutant(**row["mutant"]) for row in known if not is_noticed(row)]
    else:
        judged_before = [Mutant(**row["mutant"]) for row in known]
        missing = [m for m in sample(arguments.sample, arguments.seed) if m not in judged_before]
    setting = {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()}
    write_json(arguments.out / "setting.json", setting)
    judge(missing, arguments.tests, arguments.out, arguments.workers)
    print(summary(read(arguments.out)))
    print(alone({row["by"] for row in read(arguments.out) if row["by"]}))


def judge(mutants: list[Mutant], tests: list[str], out: Path, workers: int) -> None:
    """By these tests, or where there are none by those that run through a mutant's line."""
    known = TestsOfLines()
    with ThreadPoolExecutor(workers) as pool:
        for row in pool.map(lambda mutant: judged(mutant, tests or known.of(mutant)), mutants):
            with (out / "mutants.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["outcome"], row["mutant"]["module"], row["mutant"]["line"], flush=True)


def alone(names: set[str]) -> str:
    """What the tests that killed say of the code as it is: one that fails has killed nothing."""
    functions = {name.partition("[")[0] for name in names}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *sorted(functions)]
    done = run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "\n".join(["the tests that killed, on the code as it is:", *lines, *done.stdout.splitlines()[-1:]])


def draw_map() -> None:
    words = ["-q", "-n", "2", "-m", "not slow", f"--junitxml={TIMES}"]
    words += ["--cov=daybreak", "--cov-context=test", "--cov-report="]
    environment = os.environ | {"COVERAGE_FILE": str(MAP)}
    run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment, check=False)


def read(folder: Path) -> list[Row]:
    """The last judgement of every mutant."""
    file = folder / "mutants.jsonl"
    rows = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return list({tuple(row["mutant"].values()): row for row in rows}.values())


def sample(places: int, seed: int) -> list[Mutant]:
    """One mutant at each of some places, both at random; the same for the same code."""
    by_place: dict[tuple[str, int, int], list[Mutant]] = defaultdict(list)
    for pattern in ROOMS:
        for path in sorted(PACKAGE.glob(pattern)):
            for mutant in mutants_of(path):
                by_place[mutant.module, mutant.line, mutant.column].append(mutant)
    draw = random.Random(seed)
    order = sorted(by_place)
    draw.shuffle(order)
    found = []
    for place in order:
        mutants = by_place[place]
        draw.shuffle(mutants)
        found += [m for m in mutants if matters(m)][:1]
        if len(found) == places:
            break
    return found


def mutants_of(path: Path) -> Iterator[Mutant]:
    from cosmic_ray.ast import ast_nodes, get_ast  # type: ignore[import-not-found]
    from cosmic_ray.plugins import get_operator, operator_names  # type: ignore[import-not-found]

    tree = get_ast(path.read_text())
    for name in operator_names():
        if get_operator(name).arguments():
            continue
        places = [start for node in ast_nodes(tree) for start, _ in get_operator(name)().mutation_positions(node)]
        for occurrence, (line, column) in enumerate(places):
            yield Mutant(str(path.relative_to(PACKAGE)), line, column, name, occurrence)


def changed(mutant: Mutant) -> str:
    from cosmic_ray.mutating import mutate_code  # type: ignore[import-not-found]
    from cosmic_ray.plugins import get_operator

    text: str = mutate_code((PACKAGE / mutant.module).read_text(), get_operator(mutant.operator)(), mutant.occurrence)
    return text


def matters(mutant: Mutant) -> bool:
    """Whether more than type hints is changed, and it is still Python (cosmic-ray takes the stars of calls and keywords
    for operators)."""
    try:
        return without_hints((PACKAGE / mutant.module).read_text()) != without_hints(changed(mutant))
    except (SyntaxError, AttributeError):
        return False


def without_hints(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


class TestsOfLines:
    """Which tests run through a line, as many as surely end in the time they have. Those of the quickest files come
    first: where one test of a file is slow, all of it may wait for what they share."""

    def __init__(self) -> None:
        from coverage import CoverageData  # type: ignore[import-not-found]

        self._data = CoverageData(basename=str(MAP))
        self._data.read()
        self._seconds = dict(times())
        self._slowest: dict[str, float] = defaultdict(float)
        for name, seconds in self._seconds.items():
            self._slowest[file_of(name)] = max(self._slowest[file_of(name)], seconds)

    def of(self, mutant: Mutant) -> list[str]:
        lines = self._data.contexts_by_lineno(str(PACKAGE / mutant.module))
        names = {context.partition("|")[0] for context in lines.get(first_line(mutant), []) if context}
        if not names:
            files = naming(mutant)
            names = {name for name in self._seconds if file_of(name) in files}
        quickest = sorted(names & self._seconds.keys(), key=lambda name: (self._slowest[file_of(name)], name))
        together = accumulate(self._seconds[name] for name in quickest)
        return [name for name, seconds in zip(quickest, together, strict=True) if seconds < ASKED_SECONDS]


def file_of(test: str) -> str:
    return test.partition("::")[0]


def first_line(mutant: Mutant) -> int:
    """Of the statement, which is the line that coverage counts; a decorator belongs to what it decorates."""
    statements = (n for n in ast.walk(ast.parse((PACKAGE / mutant.module).read_text())) if isinstance(n, ast.stmt))
    return max(n.lineno for n in statements if _begin(n) <= mutant.line <= (n.end_lineno or 0))


def _begin(statement: ast.stmt) -> int:
    return min([statement.lineno, *(decorator.lineno for decorator in getattr(statement, "decorator_list", []))])


def times() -> Iterator[tuple[str, float]]:
    for case in ElementTree.parse(TIMES).iter("testcase"):
        yield f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}", float(case.attrib["time"])


def judged(mutant: Mutant, tests: list[str]) -> Row:
    text = changed(mutant)
    before = (PACKAGE / mutant.module).read_text()
    diff = list(difflib.unified_diff(before.splitlines(), text.splitlines(), n=0, lineterm=""))[2:]
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(PACKAGE, Path(copy) / "daybreak", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(copy) / "daybreak" / mutant.module).write_text(text)
        found = (outcome_of(some, copy) for some in (tests[:AT_FIRST], tests[AT_FIRST:]) if some)
        outcome, by = next((pair for pair in found if pair[0]), ("survived", ""))
    return {"mutant": vars(mutant), "outcome": outcome, "by": by, "tests": len(tests), "diff": diff}


def naming(mutant: Mutant) -> list[str]:
    """The test files that name the module."""
    module = mutant.module.removesuffix(".py").replace("/", ".")
    room, _, name = module.rpartition(".")
    names = re.compile(rf"daybreak\.{module}\b|from daybreak\.{room} import [^\n]*\b{name}\b")
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if names.search(file.read_text())]


def outcome_of(names: list[str], source: str) -> tuple[str, str]:
    """And the test that failed; both are empty where all tests pass. Where pytest could not ask them, nothing is known:
    that ends the series."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *names]
    environment = os.environ | {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "does not end", ""
    if done.returncode == 0:
        return "", ""
    if "while loading conftest" in done.stdout + done.stderr:
        return "killed", ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if failed:
        return "killed", failed[1]
    if done.returncode > 0:
        raise SystemExit(f"pytest ended with {done.returncode}: {' '.join((done.stdout + done.stderr).split())[-300:]}")
    return f"pytest ended {done.returncode}", ""


def is_noticed(row: Row) -> bool:
    """Also where the change has ended the test process itself."""
    return row["outcome"] not in ("survived", "does not end")


def place_of(row: Row) -> str:
    return "{module}:{line}:{column} {operator}".format(**row["mutant"])


def summary(rows: list[Row]) -> str:
    lines = [f"{sum(map(is_noticed, rows))} of {len(rows)} mutants noticed by a test"]
    for row in rows:
        if not is_noticed(row):
            lines += [f"{place_of(row)}: {row['outcome']} ({row['tests']} tests)", *row["diff"][1:]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
