"""Replays recorded cases of the methods' own code through ours: `python tests/golden/replay.py DIR`.

DIR holds one folder a method; its index.json lists cases, each CASE.json (fields with role, shape and scalar values)
and CASE.safetensors (arrays). Every file of tests/golden/replays is a kind of case: `takes(case)` tells by fields and
parameters, never by the case's name, whether it is for this file, and `replay(case)` notes what it compared. Another
folder of the same layout therefore replays as well. A case may also be a folder CASE with case.json and several files
of arrays. One line a case; exit code 1 if any failed, and a case that nothing takes counts as failed. A case of a
method that we do not offer is told with the reason and counts as neither.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# Not as tests.golden: a library of the lock brings a package called tests.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from recorded import Case, NotBuiltError, UnsupportedError, read_case

REPLAYS_DIR = Path(__file__).parent / "replays"


FIELDS_NAMED = 4


def replays() -> list[ModuleType]:
    """Every file of tests/golden/replays."""
    return [importlib.import_module(f"replays.{path.stem}") for path in sorted(REPLAYS_DIR.glob("*.py"))]


def find_replay(case: Case) -> ModuleType:
    """The one file that takes the case."""
    takers = [module for module in replays() if module.takes(case)]
    if not takers:
        names = sorted(case.fields or case.params)
        more = f" and {len(names) - FIELDS_NAMED} more" if len(names) > FIELDS_NAMED else ""
        raise NotBuiltError(f"nothing of ours takes {', '.join(names[:FIELDS_NAMED])}{more}")
    if len(takers) > 1:
        raise ValueError(f"taken by {', '.join(module.__name__ for module in takers)}; make `takes` of one stricter")
    return takers[0]


def replay_case(folder: Path, name: str) -> tuple[bool | None, str]:
    """Whether a case passed, None where we do not offer the method, and its line."""
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
    """Every case that an index.json lists, one folder down (or in `root` itself)."""
    indices = sorted([*root.glob("index.json"), *root.glob("*/index.json")])
    if not indices:
        raise ValueError(f"{root} holds no METHOD/index.json; name the folder of the golden vectors.")
    for index in indices:
        for entry in json.loads(index.read_text(encoding="utf-8"))["cases"]:
            yield index.parent, entry if isinstance(entry, str) else entry["case"]


def main(arguments: list[str]) -> int:
    """Replay everything below the folder; the exit code."""
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
