"""Errors by visit: their order, the tolerance of other batch sizes, and a device that lacks memory."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.backbones.stable_diffusion import StableDiffusionBackbone
from alignment.contracts.jobs import SPEC_FILE, JobStoppedError
from alignment.contracts.reference_errors import ReferenceSpec, reference_spec
from alignment.data.features import CachedFeatures
from alignment.files.durable import write_json
from alignment.objectives.inputs import PairErrors
from alignment.training.batches import PairBatch, Visit, assemble, step_visits
from alignment.training.offline import OfflineStep
from alignment.training.reference import never, predictor
from alignment.training.reference_errors import KnownErrors, ReferenceWriter, Team, _by_pair, read_errors
from alignment.training.seeding import epoch_order

# The first test of a session includes the time to import the model libraries and to encode the cache.
pytestmark = pytest.mark.timeout(300)
CPU = torch.device("cpu")
ALONE = Team(0, 1, announces=True, wait=lambda: None)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def spec_of(bench: Any, **changes: Any) -> ReferenceSpec:
    spec = reference_spec(bench.train_spec(**changes))
    assert spec is not None
    return spec


def written(bench: Any, out: Path, pairs_at_once: int, **changes: Any) -> tuple[ReferenceWriter, KnownErrors]:
    spec = spec_of(bench, **changes)
    backbone = StableDiffusionBackbone(bench.inputs / spec.base_digest, spec.common.backbone)
    base = predictor(backbone, backbone.load_denoiser(), spec.common, CPU)
    step = OfflineStep(spec.common.objective, backbone.schedule, policy=never("a policy"), reference=base)
    features = CachedFeatures(bench.inputs / spec.cache_digest)
    writer = ReferenceWriter(spec, features, step, out=out, device=CPU, pairs_at_once=pairs_at_once)
    writer.write(ALONE, lambda pace: None)
    write_json(out / SPEC_FILE, spec.model_dump(mode="json"))
    return writer, read_errors(out, spec, features.index.num_pairs)


def test_an_error_is_that_of_its_visit_whatever_the_batch(
    bench: Any, tmp_path: Path, rounding: Callable[[int, float], float]
) -> None:
    """An error is a mean of C H W squares of about 1: on 256 values, rounding explains 2e-6 (see `rounding`)."""
    writer, known = written(bench, tmp_path / "seven", 7)
    _, single = written(bench, tmp_path / "one", 1)
    allowed = rounding(math.prod(bench.cache.latent_shape), float(known.chosen_EN.nan_to_num().max()))
    visits = [visit for step in range(10) for visit in step_visits(step, global_batch=8, num_pairs=24, seed=3)]
    for visit in visits:
        batch = assemble([visit], writer.features, writer.spec.common, writer.step.schedule)
        expected, found = writer.step.reference_errors(batch), known([visit])
        assert abs(float(found["chosen_B"]) - float(expected.chosen_B)) <= allowed
        assert abs(float(found["rejected_B"]) - float(expected.rejected_B)) <= allowed
        assert torch.equal(single([visit])["chosen_B"], expected.chosen_B), "one pair at once rounds alike"
    spread = known(visits)["chosen_B"]
    assert float(spread.std()) > 1000 * allowed, "visits have different errors"


def test_a_visit_that_was_not_computed_is_an_error_of_ours(bench: Any, tmp_path: Path) -> None:
    _, known = written(bench, tmp_path / "out", 8, steps=1)
    missing = epoch_order(3, 0, 24)[8]
    with pytest.raises(AssertionError, match="were not computed"):
        known([Visit(missing, 0)])


def test_a_device_that_lacks_memory_gets_smaller_batches(bench: Any, tmp_path: Path) -> None:
    writer, plain = written(bench, tmp_path / "plain", 2)
    sizes: list[int] = []
    honest = writer.step.reference_errors

    def small(batch: PairBatch) -> PairErrors:
        sizes.append(len(batch.timesteps_B))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return honest(batch)

    writer.step.reference_errors = small  # type: ignore[method-assign]
    writer.pairs_at_once = 8
    writer.pieces[0].unlink()
    writer.write(ALONE, lambda pace: None)
    assert sizes[:4] == [8, 4, 2, 2]
    assert writer.pairs_at_once == 2
    again = read_errors(tmp_path / "plain", writer.spec, 24)
    assert torch.equal(again.chosen_EN.nan_to_num(), plain.chosen_EN.nan_to_num())

    def full(batch: PairBatch) -> PairErrors:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    writer.step.reference_errors = full  # type: ignore[method-assign]
    writer.pieces[0].unlink()
    with pytest.raises(torch.OutOfMemoryError):
        writer.write(ALONE, lambda pace: None)


def test_the_stream_is_ordered_by_epoch_and_pair() -> None:
    errors_EN = _by_pair(torch.arange(8.0), seed=5, num_pairs=5)
    first, second = epoch_order(5, 0, 5), epoch_order(5, 1, 5)
    assert [errors_EN[0, pair].item() for pair in first] == [0, 1, 2, 3, 4]
    assert [errors_EN[1, pair].item() for pair in second[:3]] == [5, 6, 7]
    assert all(math.isnan(errors_EN[1, pair]) for pair in second[3:])


def test_a_folder_of_other_recipes_and_one_without_a_spec_are_refused(bench: Any, tmp_path: Path) -> None:
    written(bench, tmp_path / "out", 8, steps=1)
    with pytest.raises(ValueError, match="are of other recipes or another base"):
        read_errors(tmp_path / "out", spec_of(bench, steps=1, seed=9), 24)
    with pytest.raises(JobStoppedError, match="holds no reference errors"):
        read_errors(tmp_path / "none", spec_of(bench, steps=1), 24)
