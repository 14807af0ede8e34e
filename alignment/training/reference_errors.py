"""The base's errors on the visits of a seed's stream of shuffled epochs: computed once, shared by several runs.

    errors/00000.safetensors    chosen_V, rejected_V of `PIECE_VISITS` visits, in the stream's order, float32

One process computes a complete piece. V counts visits, E epochs, N pairs of the cache, B pairs of a batch.
An error differs from the one that a training step would compute by the rounding of another batch size: in float32 by
about 1e-6 of the error (see tests/alignment/training/test_reference_errors.py), which beta multiplies.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from alignment.contracts.jobs import SPEC_FILE, JobStoppedError
from alignment.contracts.reference_errors import ReferenceSpec
from alignment.data.features import CachedFeatures
from alignment.files.tensors import write_tensors
from alignment.objectives.inputs import PairErrors
from alignment.training.ahead import Ahead
from alignment.training.batches import PairBatch, Visit, assemble, micro_batches, step_visits
from alignment.training.offline import OfflineStep
from alignment.training.seeding import epoch_order

ERRORS_DIR = "errors"
PIECE_VISITS = 512
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Team:
    """This process among those of the job."""

    rank: int
    num_processes: int
    announces: bool
    """True for one process of a host."""
    wait: Callable[[], None]
    """Waits for every other process."""


class ReferenceWriter:
    """Compute the errors piece by piece. Any number of processes may share the work; finished pieces are kept.

    `pairs_at_once` is halved when the memory of the device does not suffice.
    """

    def __init__(
        self,
        spec: ReferenceSpec,
        features: CachedFeatures,
        step: OfflineStep,
        *,
        out: Path,
        device: torch.device,
        pairs_at_once: int,
    ) -> None:
        self.spec = spec
        self.features = features
        self.step = step
        self.device = device
        self.pairs_at_once = pairs_at_once
        self.pieces = [_piece_path(out, number) for number in range(-(-spec.common.steps // PIECE_VISITS))]

    def num_finished(self) -> int:
        """Return the number of pieces on disk, written by any process."""
        return sum(path.is_file() for path in self.pieces)

    def write(self, team: Team, on_piece: Callable[[float], None]) -> None:
        """Write this process's pieces. `on_piece` gets the pairs per second of each that is computed now.

        All processes are in the same round of pieces when the cache is streamed, as its pairs are deleted behind them.
        """
        for first in range(0, len(self.pieces), team.num_processes):
            numbers = range(first, min(first + team.num_processes, len(self.pieces)))
            if self.features.streamed:
                team.wait()
                self._expect(numbers, announce=team.announces)
            number = first + team.rank
            if number in numbers and not self.pieces[number].is_file():
                started = time.perf_counter()
                visits = self._visits(number)
                self._publish(number, self._errors(visits))
                on_piece(len(visits) / (time.perf_counter() - started))

    def _expect(self, numbers: Sequence[int], *, announce: bool) -> None:
        pairs = [visit.pair for number in numbers for visit in self._visits(number)]
        self.features.expect(pairs, now=len(pairs), announce=announce)

    def _visits(self, number: int) -> list[Visit]:
        common, num_pairs = self.spec.common, self.features.index.num_pairs
        visits = step_visits(number, global_batch=PIECE_VISITS, num_pairs=num_pairs, seed=common.seed)
        return visits[: common.steps - number * PIECE_VISITS]

    def _publish(self, number: int, errors: dict[str, Tensor]) -> None:
        path = self.pieces[number]
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.part")
        write_tensors(draft, errors)
        draft.replace(path)

    def _errors(self, visits: Sequence[Visit]) -> dict[str, Tensor]:
        """Compute the errors of visits, in their order. A batch never mixes buckets."""
        size, bucket = self.pairs_at_once, self.features.bucket
        parts = micro_batches(visits, bucket, rank=0, num_processes=1, micro_batch=size)
        order = {visit: place for place, visit in enumerate(visit for part in parts for visit in part)}
        places = torch.tensor([order[visit] for visit in visits])
        with closing(Ahead(self._assembled(parts), BATCHES_AHEAD)) as batches:
            found = [self._batch_errors(batch) for batch in batches]
        sides = {"chosen_V": [one.chosen_B for one in found], "rejected_V": [one.rejected_B for one in found]}
        return {name: torch.cat(errors).cpu()[places] for name, errors in sides.items()}

    def _assembled(self, parts: Sequence[Sequence[Visit]]) -> Iterator[PairBatch]:
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self.device)  # else a new thread pins memory through the first GPU
        for part in parts:
            batch = assemble(part, self.features, self.spec.common, self.step.schedule)
            yield batch.pinned() if on_gpu else batch

    def _batch_errors(self, batch: PairBatch) -> PairErrors:
        size = len(batch.timesteps_B)
        try:
            with torch.inference_mode():
                return self.step.reference_errors(batch.to(self.device))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # After the handler, whose error holds the tensors of the failed pass.
        self.pairs_at_once = min(self.pairs_at_once, size // 2)
        halves = [self._batch_errors(batch.rows(*ends)) for ends in ((0, size // 2), (size // 2, size))]
        return PairErrors(
            torch.cat([half.chosen_B for half in halves]), torch.cat([half.rejected_B for half in halves])
        )


class KnownErrors:
    """Errors by epoch and pair, float32 on the CPU: `alignment.training.batches.KnownReference`."""

    def __init__(self, chosen_EN: Tensor, rejected_EN: Tensor) -> None:
        self.chosen_EN = chosen_EN
        self.rejected_EN = rejected_EN

    def __call__(self, visits: Sequence[Visit]) -> dict[str, Tensor]:
        """Return `chosen_B` and `rejected_B` of visits that were computed."""
        rows = torch.tensor([visit.epoch for visit in visits]), torch.tensor([visit.pair for visit in visits])
        known = {"chosen_B": self.chosen_EN[rows], "rejected_B": self.rejected_EN[rows]}
        assert all(bool(errors_B.isfinite().all()) for errors_B in known.values()), f"{visits} were not computed"
        return known


def read_errors(folder: Path, wanted: ReferenceSpec, num_pairs: int) -> KnownErrors:
    """Read the errors of a finished folder for the visits of a run on a cache of `num_pairs` pairs.

    ValueError when they are of other runs, or of fewer visits than the run has. JobStoppedError (bad_data) when a file
    is missing or damaged, or an error is not finite.
    """
    found = _read_spec(folder)
    if found.key != wanted.key:
        raise ValueError(f"The reference errors {folder} are of other recipes or another base. Compute them again.")
    if found.common.steps < wanted.common.steps:
        raise ValueError(
            f"The reference errors {folder} are of {found.common.steps} visits of pairs, and the run has"
            f" {wanted.common.steps}. Compute them for as many."
        )
    numbers = range(-(-found.common.steps // PIECE_VISITS))
    pieces = [_read_piece(_piece_path(folder, number)) for number in numbers]
    sides = [torch.cat([piece[name] for piece in pieces]) for name in ("chosen_V", "rejected_V")]
    if any(len(errors_V) != found.common.steps or not bool(errors_V.isfinite().all()) for errors_V in sides):
        raise JobStoppedError("bad_data", f"The reference errors {folder} are incomplete or not finite.")
    return KnownErrors(*(_by_pair(errors_V, found.common.seed, num_pairs) for errors_V in sides))


def _by_pair(errors_V: Tensor, seed: int, num_pairs: int) -> Tensor:
    """Order the stream's errors by epoch and pair; NaN for visits beyond its end."""
    num_epochs = -(-len(errors_V) // num_pairs)
    errors_EN = torch.full((num_epochs, num_pairs), torch.nan)
    for epoch in range(num_epochs):
        part = errors_V[epoch * num_pairs : (epoch + 1) * num_pairs]
        errors_EN[epoch, torch.tensor(epoch_order(seed, epoch, num_pairs)[: len(part)])] = part
    return errors_EN


def _piece_path(folder: Path, number: int) -> Path:
    return folder / ERRORS_DIR / f"{number:05d}.safetensors"


def _read_spec(folder: Path) -> ReferenceSpec:
    try:
        return ReferenceSpec.model_validate_json((folder / SPEC_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise JobStoppedError("bad_data", f"{folder} holds no reference errors: {error}") from error


def _read_piece(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError) as error:
        raise JobStoppedError("bad_data", f"The reference errors {path} cannot be read: {error}") from error
