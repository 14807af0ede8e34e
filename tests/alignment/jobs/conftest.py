"""Tolerances of training curves, and two warm processes that run jobs together."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alignment.contracts.jobs import NORM_BINS, NORM_RATIO

RUN_JOBS = Path(__file__).with_name("run_jobs.py")
JOB_SECONDS = 200
SESSION_SECONDS = 2400

Curve = list[tuple[int, dict[str, float]]]
ERRORS = ("chosen_error", "rejected_error", "chosen_error_minus_reference", "rejected_error_minus_reference")
RATIOS = tuple(f"{NORM_RATIO}{number}" for number in range(NORM_BINS))
LIPSCHITZ = 1.0
"""Largest slope of -log sigmoid, of a hinge, and of an error as its own loss."""


@pytest.fixture(scope="session")
def curve_tolerance(rounding: Callable[[int, float], float]) -> Callable[..., dict[str, float]]:
    """Give a function of a bench, a spec and a curve: the largest difference of each metric that rounding explains.

    An error is the mean of the C * H * W squares of a latent, about 1.2 in size. On 256 values its rounding is
    r = sqrt(256) * 2^-23 * 1.2 = 2.3e-6 (`rounding_of_mean`); an error less that of the reference rounds twice.
    The margin of a pair is beta / 2 times a sum of four errors: beta / 2 * sqrt(4) * r = beta * r, at beta 500 1.1e-3,
    and the mean over the 8 pairs of a batch is better by sqrt(8): 4e-4. The loss has a slope of 1 in it at most.
    Each pair weights its gradient by sigmoid(-margin), whose slope is 1/4 where the value is 1/2, so the norm of the
    gradient is uncertain by half of beta * r of itself.
    Seen with the kernels of SSE4, AVX2 and AVX-512 on one processor: 1.2e-7, 3.4e-5, 1.7e-5 and 7e-5 of itself.
    A prediction's norm is the root of a mean of as many squares, about 1 in size, and rounds as an error; a ratio
    has two.
    The weights drift apart as well, by the rounded gradients: at learning rate 1e-3, ten steps of 3,000 weights whose
    gradients differ by 1e-5 of themselves move the weights by 1e-3 * 10 * sqrt(3000) * 1e-5 = 5e-6 and, under a
    gradient of norm 0.7, the loss by 4e-6, which is too little to count.
    A change of the pairs, of their noise, their order between batches or their weights moves errors by 1e-3 and more.
    """

    def tolerance(bench: Any, spec: Any, curve: Curve) -> dict[str, float]:
        size = max(metrics[name] for _, metrics in curve for name in ERRORS[:2])
        error = rounding(math.prod(bench.cache.latent_shape), size)
        pair = spec.recipe.objective.beta * error
        margin = pair / math.sqrt(spec.recipe.global_batch)
        norm = max(metrics["gradient_norm"] for _, metrics in curve)
        return {
            **dict.fromkeys(ERRORS[:2], error),
            **dict.fromkeys(ERRORS[2:], math.sqrt(2) * error),
            "margin": margin,
            "loss": LIPSCHITZ * margin,
            "gradient_norm": pair / 2 * norm,
            **dict.fromkeys(RATIOS, math.sqrt(2) * error),
        }

    return tolerance


@pytest.fixture(scope="session")
def assert_one_curve(curve_tolerance: Callable[..., dict[str, float]]) -> Callable[..., None]:
    """Give a function that fails where two curves of Diffusion-DPO differ by more than rounding explains.

    implicit_accuracy counts signs, and a margin within its rounding of zero may fall on either side; the margin itself
    is compared.
    """

    def check(bench: Any, spec: Any, ours: Curve, theirs: Curve) -> None:
        allowed = curve_tolerance(bench, spec, theirs)
        for (step, found), (other, expected) in zip(ours, theirs, strict=True):
            assert step == other
            assert found.keys() == expected.keys()
            compared = found.keys() - {"implicit_accuracy"}
            wrong = {
                name: (found[name], expected[name])
                for name in compared
                if abs(found[name] - expected[name]) > allowed.get(name, 0.0)
            }
            assert not wrong, f"step {step}: {wrong}; allowed {allowed}"

    return check


def free_port() -> int:
    """Return a port of loopback at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class TwoRanks:
    """Two processes under accelerate's launcher, which run one job after the other; see run_jobs.py."""

    folder: Path
    launcher: subprocess.Popen[bytes]
    num_jobs: int = 0

    def run(self, module: str, arguments: list[str]) -> str:
        """Run a job on both ranks, for JOB_SECONDS at most, and return its part of the log. The job must succeed."""
        log, number = self.folder / "log", self.num_jobs
        start = log.stat().st_size
        self.num_jobs += 1
        self._give(number, {"module": module, "arguments": arguments, "port": free_port()})
        answers = [self.folder / f"{number}.{rank}" for rank in (0, 1)]
        deadline = time.monotonic() + JOB_SECONDS
        while not all(answer.exists() for answer in answers):
            assert self.launcher.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.05)
        said = log.read_bytes()[start:].decode(errors="replace")
        assert [answer.read_text() for answer in answers] == ["0", "0"], said[-2000:]
        assert "process 1 of 2" in said
        return said

    def stop(self) -> None:
        """End both ranks and their launcher."""
        self._give(self.num_jobs, {"module": "stop"})
        try:
            self.launcher.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.launcher.pid, signal.SIGKILL)
            self.launcher.wait(timeout=20)

    def _give(self, number: int, job: dict[str, Any]) -> None:
        part = self.folder / f"{number}.part"
        part.write_text(json.dumps(job), encoding="utf-8")
        part.rename(self.folder / f"{number}.json")


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRanks]:
    """Two processes for the session's jobs on two processes: their imports cost more than all of those jobs."""
    folder = tmp_path_factory.mktemp("two_ranks")
    # A session that is itself killed in the middle of a job leaves the ranks to this bound.
    command = ["timeout", str(SESSION_SECONDS)]
    command += [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("ab") as log:
        launcher = subprocess.Popen(
            [*command, str(RUN_JOBS), str(folder), str(os.getpid())],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    ranks = TwoRanks(folder, launcher)
    yield ranks
    ranks.stop()
