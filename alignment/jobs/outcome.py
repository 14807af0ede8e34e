"""Shared frame of every job: its four paths, and an outcome that can be read from disk.

A job writes OUT/result.json last. When it fails, it leaves OUT/failure.json (`JobFailure`) and a non-zero exit code:
2 for input that the user has to fix, 143 after SIGTERM (128 + 15), 1 otherwise. Torch-free.
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

_WARN_AT_IMPORT = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
"""diffusers imports torchao where it is installed; these loggers then warn of parts of it that no job uses."""

Model = TypeVar("Model", bound=BaseModel)

EXIT_CODES = {"bad_input": 2, "preempted": 143}
OUT_OF_MEMORY = "OutOfMemoryError"
"""Class name of torch's error, as text because this file does not import torch."""
UNREADABLE = ("SafetensorError", "Error while deserializing")
"""Class and start of torch's message about weights that cannot be read. A failed write has the same class."""
STORAGE_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class JobPaths:
    """Paths of a job's spec, placement and inputs, and of its output."""

    spec: Path
    placement: Path
    inputs: Path
    out: Path

    def input(self, digest: str, what: str) -> Path:
        """Return the folder or file of an input, by content digest. ValueError when it is not among the inputs."""
        path = self.inputs / digest
        if not path.exists():
            raise ValueError(f"The {what} with digest {digest} is not in {self.inputs}. Download it there first.")
        return path

    def scorer(self, judge: Judge, what: str = "scorer") -> Path:
        """Return the folder of a scorer's weights; a scorer without weights needs no folder. ValueError as `input`."""
        return self.input(judge.weights_digest, f"{what} {judge.name}") if judge.scorer.has_weights else self.inputs


def run_job(main: Callable[[JobPaths], None]) -> None:
    """Run one rank of a job from the command line and exit: the complete body of a job module's `__main__`.

    A job whose OUT is finished exits at once. An unfinished one is resumed by `main` itself.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in _WARN_AT_IMPORT:
        logging.getLogger(name).setLevel(logging.ERROR)
    paths = _parse_paths(sys.argv[1:])
    signal.signal(signal.SIGTERM, _stop_on_sigterm)
    sys.exit(exit_code(main, paths))


def _stop_on_sigterm(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM where no loop handles it: finished work stays, and the next run does the rest."""
    raise JobStoppedError("preempted", "Stopped by SIGTERM. Run the job again to continue.")


def exit_code(main: Callable[[JobPaths], None], paths: JobPaths) -> int:
    """Run `main`; return 0, or the code of the failure written to OUT/failure.json."""
    if (paths.out / RESULT_FILE).is_file():
        logger.info("%s is finished already; nothing to do", paths.out)
        return 0
    try:
        paths.out.mkdir(parents=True, exist_ok=True)
        if _is_main_process():
            (paths.out / FAILURE_FILE).unlink(missing_ok=True)
        main(paths)
    except Exception as error:
        failure = _describe(error, paths.out)
        logger.log(
            logging.WARNING if failure.kind == "preempted" else logging.ERROR,
            "%s: %s",
            failure.kind,
            failure.message,
            exc_info=failure.kind == "crashed" or _is_unreadable(error),
        )
        _write_failure(paths.out, failure)
        return EXIT_CODES.get(failure.kind, 1)
    return 0


def _parse_paths(arguments: list[str]) -> JobPaths:
    """Parse --spec S.json --placement P.json --inputs DIR --out DIR."""
    parser = argparse.ArgumentParser(description="Run one alignment job.")
    for name in ("spec", "placement", "inputs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parsed = parser.parse_args(arguments)
    return JobPaths(spec=parsed.spec, placement=parsed.placement, inputs=parsed.inputs, out=parsed.out)


def _describe(error: Exception, out: Path) -> JobFailure:
    """Map an exception to a failure; an unforeseen one is `crashed` and keeps its class name."""
    if isinstance(error, JobStoppedError):
        return JobFailure(kind=error.kind, message=error.message, step=error.step)
    if isinstance(error, OSError) and error.errno in STORAGE_FULL:
        folder = Path(error.filename).parent if error.filename else out
        return JobFailure(
            kind="storage_full",
            message=f"No space left for {folder}: {error.strerror}. Finished work is intact; free space and run the "
            "job again.",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == OUT_OF_MEMORY:
        advice = (
            'Lower placement.train.micro_batch, set placement.train.gradient_checkpointing = "all", or use LoRA or an'
            " objective without a reference."
        )
        return JobFailure(kind="out_of_memory", message=f"{error} {advice}".lstrip())
    if _is_unreadable(error):
        advice = "A weights file is damaged or incomplete; the log shows which file was read last. Fetch it again."
        return JobFailure(kind="bad_data", message=f"{error}. {advice}")
    if isinstance(error, ValueError):
        return JobFailure(kind="bad_input", message=str(error))
    return JobFailure(kind="crashed", message=f"{type(error).__name__}: {error}")


def _is_unreadable(error: Exception) -> bool:
    name, beginning = UNREADABLE
    return type(error).__name__ == name and str(error).startswith(beginning)


def _write_failure(out: Path, failure: JobFailure) -> None:
    """Write failure.json unless another rank did first: the first failure is the cause, later ones follow from it."""
    beside = out / f".{FAILURE_FILE}.{os.getpid()}"
    try:
        beside.write_text(json.dumps(failure.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        os.link(beside, out / FAILURE_FILE)
    except FileExistsError:
        logger.info("another process of this job has already written %s", FAILURE_FILE)
    except OSError as error:
        logger.error("%s could not be written: %s", out / FAILURE_FILE, error)
    finally:
        beside.unlink(missing_ok=True)


def read_object(path: Path, model: type[Model], what: str) -> Model:
    """Read a value object from a JSON file; ValueError names the file and every bad field."""
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
    """Record the spec that OUT belongs to; ValueError when an earlier run started another spec there.

    Every process reads the record before rank 0 writes it: `wait` holds each until all have reached it.
    """
    note = paths.out / SPEC_FILE
    if note.is_file() and read_object(note, type(spec), f"{what} of the earlier run").digest != spec.digest:
        raise ValueError(f"{paths.out} holds the output of another {what}; give an empty folder.")
    wait()
    if writes and not note.is_file():
        write_json(note, spec.model_dump(mode="json"))


def write_result(out: Path, result: BaseModel) -> None:
    """Write result.json, last of all files: its presence means finished."""
    write_json(out / RESULT_FILE, result.model_dump(mode="json"))


def _is_main_process() -> bool:
    """Return True on rank 0, according to the environment of torch's launcher; True without a launcher."""
    return int(os.environ.get("RANK", "0")) == 0
