"""Replay cases recorded from the authors' code of each method with our code: `python tests/golden/replay.py DIR`.

DIR holds one folder per method. Its index.json lists cases, each CASE.json (fields with role, shape and scalar values)
and CASE.safetensors (arrays), or a folder CASE with case.json and several array files. Every file of
tests/golden/replays handles one kind of case: `takes(case)` returns True for its cases, by fields and parameters, never
by the case's name, and `replay(case)` records its comparisons. So another folder of the same layout can be replayed
too. The command prints one line per case and exits with 1 if any failed. A case that no file takes counts as failed. A
case of an unsupported method is reported with the reason and counts neither as passed nor as failed.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# Not as tests.golden: a library in the lock file installs a package named tests.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from recorded import Case, NotBuiltError, UnsupportedError, read_case

REPLAYS_DIR = Path(__file__).parent / "replays"


FIELDS_NAMED = 4


def replays() -> list[ModuleType]:
    """Import every file of tests/golden/replays."""
    return [importlib.import_module(f"replays.{path.stem}") for path in sorted(REPLAYS_DIR.glob("*.py"))]


def find_replay(case: Case) -> ModuleType:
    """Return the file that takes the case; NotBuiltError for none, ValueError for several."""
    takers = [module for module in replays() if module.takes(case)]
    if not takers:
        names = sorted(case.fields or case.params)
        more = f" and {len(names) - FIELDS_NAMED} more" if len(names) > FIELDS_NAMED else ""
        raise NotBuiltError(f"no replay takes {', '.join(names[:FIELDS_NAMED])}{more}")
    if len(takers) > 1:
        raise ValueError(f"taken by {', '.join(module.__name__ for module in takers)}; make one `takes` stricter")
    return takers[0]


def replay_case(folder: Path, name: str) -> tuple[bool | None, str]:
    """Return True if the case passed (None for an unsupported method), and its output line."""
    title = f"{folder.name}/{name}"
    try:
        case = read_case(folder, name)
        find_replay(case).replay(case)
    except UnsupportedError as reason:
        return None, f"UNSUPPORTED {title} ({reason})"
    except NotBuiltError as missing:
        return False, f"NOT BUILT {title} ({missing})"
    except Exception as error:
        return False, f"FAIL {title} ({type(error).__name__}: {error})"
    if case.wrong or not case.checked:
        return False, f"FAIL {title} ({'; '.join(case.wrong) or 'nothing could be checked'})"
    remarks = f"; {'; '.join(case.remarks)}" if case.remarks else ""
    return True, f"PASS {title} ({len(case.checked)} checks{remarks})"


def cases_below(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield every case listed in an index.json, one folder below `root` or in `root` itself."""
    indices = sorted([*root.glob("index.json"), *root.glob("*/index.json")])
    if not indices:
        raise ValueError(f"{root} has no METHOD/index.json. Pass the folder of the golden vectors.")
    for index in indices:
        for entry in json.loads(index.read_text(encoding="utf-8"))["cases"]:
            yield index.parent, entry if isinstance(entry, str) else entry["case"]


def main(arguments: list[str]) -> int:
    """Replay every case below the folder and return the exit code."""
    if len(arguments) != 1:
        print("usage: python tests/golden/replay.py DIR", file=sys.stderr)
        return 2
    try:
        cases = list(cases_below(Path(arguments[0])))
    except (ValueError, KeyError) as error:
        print(error, file=sys.stderr)
        return 2
    outcomes = []
    for folder, name in cases:
        passed, line = replay_case(folder, name)
        outcomes.append(passed)
        print(line, flush=True)
    passed, failed, others = (outcomes.count(outcome) for outcome in (True, False, None))
    print(f"{passed} passed, {failed} failed" + (f", {others} not supported" if others else ""))
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
