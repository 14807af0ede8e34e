"""What every job has in common: its four paths, and an ending that can be read from disk.

A job writes OUT/result.json last. When it cannot, it leaves OUT/failure.json (`JobFailure`) and a non-zero exit code:
2 for input that a person has to mend, 143 after SIGTERM (128 + 15), 1 otherwise. Torch-free.
"""

import argparse
import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from pydantic import BaseModel

from alignment.config import validate
from alignment.contracts.jobs import FAILURE_FILE, RESULT_FILE, SPEC_FILE, JobFailure, JobStoppedError
from alignment.contracts.judges import Judge
from alignment.contracts.values import ValueObject
from alignment.files.durable import write_json

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)

EXIT_CODES = {"bad_input": 2, "preempted": 143}
OUT_OF_MEMORY = "OutOfMemoryError"
"""Class of torch's error, named because this file does not import torch."""
UNREADABLE = ("SafetensorError", "Error while deserializing")
"""Class, and beginning of what it says, of an error about weights that cannot be read. When they cannot be written it
is of the same class."""
STORAGE_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class JobPaths:
    """Where a job finds its spec, its placement and its inputs, and where it leaves its output."""

    spec: Path
    placement: Path
    inputs: Path
    out: Path

    def input(self, digest: str, what: str) -> Path:
        """The folder or file of an input, by content digest. ValueError when it was not brought here."""
        path = self.inputs / digest
        if not path.exists():
            raise ValueError(f"The {what} with digest {digest} is not in {self.inputs}. Download it there first.")
        return path

    def scorer(self, judge: Judge, what: str = "scorer") -> Path:
        """The folder of a scorer's weights; one without weights looks into none. ValueError as `input`."""
        return self.input(judge.weights_digest, f"{what} {judge.name}") if judge.scorer.has_weights else self.inputs


def run_job(main: Callable[[JobPaths], None]) -> None:
    """Run one rank of a job from the command line and exit: the whole body of a job module's `__main__`.

    A finished OUT answers at once. An unfinished one is resumed by `main` itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    paths = parse_paths(sys.argv[1:])
    signal.signal(signal.SIGTERM, _stop_where_we_are)
    sys.exit(exit_code(main, paths))


def _stop_where_we_are(number: int, frame: FrameType | None) -> None:
    """SIGTERM while no loop answers it by itself: what is finished stays, the rest is done by the next run."""
    raise JobStoppedError("preempted", "Asked to stop by SIGTERM. Run the job again to go on.")


def exit_code(main: Callable[[JobPaths], None], paths: JobPaths) -> int:
    """Run `main`; 0, or the code of the failure that it left in OUT/failure.json."""
    if (paths.out / RESULT_FILE).is_file():
        logger.info("%s is finished already; nothing to do", paths.out)
        return 0
    try:
        paths.out.mkdir(parents=True, exist_ok=True)
        if is_main_process():
            (paths.out / FAILURE_FILE).unlink(missing_ok=True)
        main(paths)
    except Exception as error:
        failure = describe(error, paths.out)
        logger.log(
            logging.WARNING if failure.kind == "preempted" else logging.ERROR,
            "%s: %s",
            failure.kind,
            failure.message,
            exc_info=failure.kind == "crashed" or _is_unreadable(error),
        )
        leave_failure(paths.out, failure)
        return EXIT_CODES.get(failure.kind, 1)
    return 0


def parse_paths(arguments: list[str]) -> JobPaths:
    """--spec S.json --placement P.json --inputs DIR --out DIR."""
    parser = argparse.ArgumentParser(description="Run one alignment job.")
    for name in ("spec", "placement", "inputs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parsed = parser.parse_args(arguments)
    return JobPaths(spec=parsed.spec, placement=parsed.placement, inputs=parsed.inputs, out=parsed.out)


def describe(error: Exception, out: Path) -> JobFailure:
    """The failure that stands for an exception; anything unforeseen is `crashed` and keeps its class name."""
    if isinstance(error, JobStoppedError):
        return JobFailure(kind=error.kind, message=error.message, step=error.step)
    if isinstance(error, OSError) and error.errno in STORAGE_FULL:
        folder = Path(error.filename).parent if error.filename else out
        return JobFailure(
            kind="storage_full",
            message=f"No space left for {folder}: {error.strerror}. What was finished is intact; free space and rerun.",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == OUT_OF_MEMORY:
        advice = "Lower placement.train.micro_batch, or take LoRA or an objective without a reference."
        return JobFailure(kind="out_of_memory", message=f"{error} {advice}".lstrip())
    if _is_unreadable(error):
        advice = "A weights file is damaged or incomplete; the log shows which was read. Fetch it again."
        return JobFailure(kind="bad_data", message=f"{error}. {advice}")
    if isinstance(error, ValueError):
        return JobFailure(kind="bad_input", message=str(error))
    return JobFailure(kind="crashed", message=f"{type(error).__name__}: {error}")


def _is_unreadable(error: Exception) -> bool:
    name, beginning = UNREADABLE
    return type(error).__name__ == name and str(error).startswith(beginning)


def leave_failure(out: Path, failure: JobFailure) -> None:
    """Write failure.json unless another rank was first: the first failure is the cause, later ones its echo."""
    beside = out / f".{FAILURE_FILE}.{os.getpid()}"
    try:
        beside.write_text(json.dumps(failure.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        os.link(beside, out / FAILURE_FILE)
    except FileExistsError:
        logger.info("another process of this job has already left %s", FAILURE_FILE)
    except OSError as error:
        logger.error("%s could not be written: %s", out / FAILURE_FILE, error)
    finally:
        beside.unlink(missing_ok=True)


def read_object(path: Path, model: type[Model], what: str) -> Model:
    """A value object from a JSON file; ValueError names the file and every bad field."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{what} {path} cannot be read as JSON: {error}.") from error
    return validate(model, data, what=f"{what} {path}")


def claim_output(
    paths: JobPaths,
    spec: ValueObject,
    what: str,
    *,
    wait: Callable[[], None] = lambda: None,
    writes: bool = True,
) -> None:
    """Note whose output OUT holds; ValueError when an earlier run left the beginnings of another spec's.

    Of several processes all look before one writes: `wait` holds each until the others have come there.
    """
    note = paths.out / SPEC_FILE
    if note.is_file() and read_object(note, type(spec), f"{what} of the earlier run").digest != spec.digest:
        raise ValueError(f"{paths.out} holds the output of another {what}; give an empty folder.")
    wait()
    if writes and not note.is_file():
        write_json(note, spec.model_dump(mode="json"))


def write_result(out: Path, result: BaseModel) -> None:
    """result.json, last of all: present means finished."""
    write_json(out / RESULT_FILE, result.model_dump(mode="json"))


def is_main_process() -> bool:
    """Whether this is rank 0, as torch's launcher says through the environment; true without a launcher."""
    return int(os.environ.get("RANK", "0")) == 0
