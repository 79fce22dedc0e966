"""Do the tests notice when one place of the code is changed? Mutation testing of the rooms that a run depends on.

    pip install cosmic-ray==8.7.0 pytest-cov==7.0.0
    python benchmarks/mutants.py map                      once: which quick test runs through which line (25 minutes)
    python benchmarks/mutants.py run --sample 300 --out benchmarks/records/DATE_mutants

One mutant of cosmic-ray at each of a random sample of places in core, runs and training/checkpoint.py. Those that
change a type hint alone are left out. A mutant is killed when a test that runs through its line fails, or does not end;
the quickest are asked first. Where none does, as when a module is imported, the tests that name the module are asked.
mutants.jsonl has every mutant; those that are there are not repeated. Survivors are listed with their change.
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
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "daybreak"
ROOMS = ("core/*.py", "runs/*.py", "training/checkpoint.py")
MAP, TIMES = ROOT / "runs" / "tests.coverage", ROOT / "runs" / "tests.xml"
AT_FIRST, SECONDS = 25, 300  # tests, and what a mutant's tests may take together

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
    parser.add_argument("what", choices=("map", "run"))
    parser.add_argument("--sample", type=int, default=300, help="places")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "map":
        draw_map()
        return
    if arguments.out is None or not MAP.exists():
        parser.error("run needs --out, and the map before it")
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = sample(arguments.sample, arguments.seed)
    known = {tuple(row["mutant"].values()) for row in read(arguments.out)}
    missing = [m for m in chosen if tuple(vars(m).values()) not in known]
    tests = TestsOfLines()
    with ThreadPoolExecutor(arguments.workers) as pool:
        for row in pool.map(lambda mutant: judged(mutant, tests), missing):
            with (arguments.out / "mutants.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["outcome"], row["mutant"]["module"], row["mutant"]["line"], flush=True)
    print(summary(read(arguments.out)))


def draw_map() -> None:
    words = ["-q", "-n", "2", "-m", "not slow", f"--junitxml={TIMES}"]
    words += ["--cov=daybreak", "--cov-context=test", "--cov-report="]
    environment = os.environ | {"COVERAGE_FILE": str(MAP)}
    subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT, env=environment, check=False)


def read(folder: Path) -> list[Row]:
    file = folder / "mutants.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


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
    """Which tests run through a line, the quickest first."""

    def __init__(self) -> None:
        from coverage import CoverageData  # type: ignore[import-not-found]

        self._data = CoverageData(basename=str(MAP))
        self._data.read()
        self._seconds = dict(times())

    def of(self, mutant: Mutant) -> list[str]:
        lines = self._data.contexts_by_lineno(str(PACKAGE / mutant.module))
        names = {context.partition("|")[0] for context in lines.get(first_line(mutant), []) if context}
        return sorted(names & self._seconds.keys(), key=lambda name: self._seconds[name])


def first_line(mutant: Mutant) -> int:
    """Of the statement, which is the line that coverage counts; a decorator belongs to what it decorates."""
    statements = (n for n in ast.walk(ast.parse((PACKAGE / mutant.module).read_text())) if isinstance(n, ast.stmt))
    return max(n.lineno for n in statements if _begin(n) <= mutant.line <= (n.end_lineno or 0))


def _begin(statement: ast.stmt) -> int:
    return min([statement.lineno, *(decorator.lineno for decorator in getattr(statement, "decorator_list", []))])


def times() -> Iterator[tuple[str, float]]:
    for case in ElementTree.parse(TIMES).iter("testcase"):
        yield f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}", float(case.attrib["time"])


def judged(mutant: Mutant, tests: TestsOfLines) -> Row:
    text = changed(mutant)
    before = (PACKAGE / mutant.module).read_text()
    diff = list(difflib.unified_diff(before.splitlines(), text.splitlines(), n=0, lineterm=""))[2:]
    through = tests.of(mutant)
    asked = [through[:AT_FIRST], through[AT_FIRST:]] if through else [naming(mutant)]
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(PACKAGE, Path(copy) / "daybreak", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(copy) / "daybreak" / mutant.module).write_text(text)
        outcome = next((found for names in asked if names and (found := outcome_of(names, copy))), "survived")
    return {"mutant": vars(mutant), "outcome": outcome, "tests": len(through), "diff": diff}


def naming(mutant: Mutant) -> list[str]:
    """The test files that name the module."""
    module = mutant.module.removesuffix(".py").replace("/", ".")
    room, _, name = module.rpartition(".")
    names = re.compile(rf"daybreak\.{module}\b|from daybreak\.{room} import [^\n]*\b{name}\b")
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if names.search(file.read_text())]


def outcome_of(names: list[str], source: str) -> str:
    """Empty where all tests pass."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *names]
    environment = os.environ | {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return "does not end"
    return "killed" if done.returncode in (1, 2) else "" if done.returncode == 0 else f"pytest ended {done.returncode}"


def odd(row: Row) -> bool:
    return row["outcome"] not in ("killed", "survived")


def summary(rows: list[Row]) -> str:
    survivors = [row for row in rows if row["outcome"] == "survived"]
    noticed = [row for row in rows if row["outcome"] == "killed"]
    lines = [f"{len(noticed)} of {len(rows)} mutants killed by a test"]
    lines += [f"{row['mutant']['module']}:{row['mutant']['line']}: {row['outcome']}" for row in rows if odd(row)]
    for row in survivors:
        lines += [f"{row['mutant']['module']}:{row['mutant']['line']} ({row['tests']} tests)", *row["diff"][1:]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
