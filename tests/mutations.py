"""Break each metric on purpose, one line at a time, and see a test fail.

    python tests/mutations.py                 all of tests/mutations*.toml; writes benchmarks/results/mutations.md
    python tests/mutations.py --only WORD     those whose name or module holds WORD; writes nothing

Each change is made in a copy of the package in a temporary folder, so the checkout is never touched. A change that no
test notices has survived, and the exit status is then 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings the same under another name
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
LISTS = sorted((ROOT / "tests").glob("mutations*.toml"))
TABLE = ROOT / "benchmarks" / "results" / "mutations.md"


def listed():
    "The mutations, in the order of the files"
    return [m for file in LISTS for m in tomllib.loads(file.read_text(encoding="utf-8"))["mutation"]]


def covers(mutation, card):
    "Whether the mutation stands for a card, by one of its patterns"
    return any(fnmatchcase(card, pattern) for pattern in mutation["metrics"])


def broken(mutation, folder):
    "A copy of package and tests with the one change made"
    for part in ("icdrat", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    module = folder / mutation["module"]
    text = module.read_text(encoding="utf-8")
    if text.count(mutation["old"]) != 1:
        raise SystemExit(
            (
                f"{mutation['name']}: {mutation['old']!r} occurs {text.count(mutation['old'])} times "
                f"in {mutation['module']}; it must occur once"
            )
        )
    module.write_text(text.replace(mutation["old"], mutation["new"]), encoding="utf-8")


def caught(mutation):
    "Whether the named test fails on the changed package"
    with tempfile.TemporaryDirectory() as folder:
        broken(mutation, Path(folder))
        paths = dict(
            PYTHONPATH=folder, ICDRAT_ORACLE=os.environ.get("ICDRAT_ORACLE", str(ROOT.parent / "shared" / "oracle"))
        )
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation["test"]]
        run = subprocess.run(command, cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True)
    if (
        run.returncode not in (0, 1)
        or "no tests ran" in run.stdout
        or " failed" not in run.stdout + " failed" * (run.returncode == 0)
    ):
        raise SystemExit(
            f"{mutation['name']}: {mutation['test']} could not be run\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
        )
    return run.returncode == 1


def row(cells):
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a name or module")
    only = parser.parse_args().only
    chosen = [m for m in listed() if only in m["name"] or only in m["module"]]
    rows, survived = [], []
    for m in chosen:
        result = "caught" if caught(m) else "survived"
        print(f"{result:9} {m['name']}", flush=True)
        survived += [m["name"]] * (result == "survived")
        rows.append(
            [
                ", ".join(f"`{p}`" for p in m["metrics"]),
                f"`{m['old']}` → `{m['new']}`",
                f"`{m['test'].split('::')[-1]}`",
                result,
            ]
        )
    if not only:
        head = row(["metrics", "change", "test that catches it", "result"]) + row(["---"] * 4)
        TABLE.write_text(
            f"{len(rows) - len(survived)} of {len(rows)} changes are caught. Made by `python tests/mutations.py`.\n\n"
            + head
            + "".join(map(row, rows)),
            encoding="utf-8",
        )
    if survived:
        raise SystemExit(f"survived: {', '.join(survived)}")


if __name__ == "__main__":
    main()
