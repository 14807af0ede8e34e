"""The reward job: its output, its held-out users, reproducibility, and bad input."""

import hashlib
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from alignment.catalogues.rewards import Pal
from alignment.contracts.jobs import JobFailure, Placement
from alignment.contracts.judges import Judge
from alignment.contracts.reward_models import RewardTrainResult, RewardTrainSpec
from alignment.files.durable import content_digest
from alignment.jobs import train_reward
from alignment.jobs.outcome import JobPaths, exit_code
from alignment.rewards.interface import load_scorer
from alignment.rewards.pal import _read_head
from alignment.training.embeddings import EmbeddedComparisons
from alignment.training.metrics import read_lines

pytestmark = pytest.mark.timeout(300)
USERS = 10


def png(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    return buffer.getvalue()


def split(num_pairs: int, first: int, *, damaged: bool = False) -> pa.Table:
    """Every seventh pair is a tie; ten annotators in turn; five prompts."""
    rows = [
        {
            "pair_id": f"{first + index:064x}",
            "prompt": f"prompt {'abcde'[index % 5]}",
            "annotator_id": f"user{index % USERS}",
            "image_chosen": b"no image" if damaged and index == 3 else png(first + 2 * index),
            "image_rejected": png(first + 2 * index + 1),
            "is_tie": index % 7 == 6,
        }
        for index in range(num_pairs)
    ]
    return pa.Table.from_pylist(rows)


@dataclass(frozen=True)
class Shop:
    """Inputs by digest, and the specs that name them."""

    inputs: Path
    snapshot_digest: str
    embedder_digest: str

    def spec(self, *, mixture: tuple[float, ...] = (), **changes: Any) -> RewardTrainSpec:
        recipe: dict[str, Any] = {
            "name": "tiny",
            "head": {"kind": "pal_b"},
            "optimiser": {"projector_learning_rate": 1e-3},
            "global_batch": 16,
            "steps": 6,
            "seed": 3,
            "validate_every_steps": 2,
            "validation_share": 0.2,
            "labels_per_user": (2, 5, 1000),
        }
        return RewardTrainSpec.model_validate(
            {
                "recipe": recipe | changes,
                "snapshot_digest": self.snapshot_digest,
                "embedder_digest": self.embedder_digest,
                "mixture": mixture,
            }
        )

    def train(self, out: Path, spec: BaseModel) -> int:
        """Run the job here; its exit code."""
        folder = out.parent / f"{out.name}_job"
        folder.mkdir(exist_ok=True)
        (folder / "spec.json").write_text(spec.model_dump_json())
        (folder / "placement.json").write_text(Placement().model_dump_json())
        threads = torch.get_num_threads()
        try:
            paths = JobPaths(folder / "spec.json", folder / "placement.json", self.inputs, out)
            return exit_code(train_reward.main, paths)
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def make_shop(tiny_clip_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Shop]:
    def make(**train: Any) -> Shop:
        root = tmp_path_factory.mktemp("shop")
        snapshot, inputs = root / "snapshot", root / "inputs"
        snapshot.mkdir()
        pq.write_table(split(90, first=0, **train), snapshot / "train.parquet")
        pq.write_table(split(40, first=1000), snapshot / "test.parquet")
        shutil.copytree(snapshot, inputs / content_digest(snapshot))
        shutil.copytree(tiny_clip_dir, inputs / content_digest(tiny_clip_dir))
        return Shop(inputs, content_digest(snapshot), content_digest(tiny_clip_dir))

    return make


@pytest.fixture(scope="module")
def shop(make_shop: Callable[..., Shop]) -> Shop:
    return make_shop()


@pytest.fixture(scope="module")
def finished(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reward") / "out"
    assert shop.train(out, shop.spec()) == 0
    return out


def result_of(out: Path) -> RewardTrainResult:
    return RewardTrainResult.model_validate_json((out / "result.json").read_text())


def failure_of(out: Path) -> JobFailure:
    return JobFailure.model_validate_json((out / "failure.json").read_text())


def test_the_result_names_the_files_in_the_folder(finished: Path, shop: Shop) -> None:
    result = result_of(finished)
    assert result.spec_digest == shop.spec().digest
    assert result.judge_digest == content_digest(finished / "judge")
    assert result.head_digest == content_digest(finished / "head")
    assert result.best_step in {2, 4, 6}
    assert {"loss", "validation_loss"} <= set(result.final_metrics)
    assert [line["step"] for line in read_lines(finished / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert sum(result.mixture) == pytest.approx(1, abs=1e-5)


def test_a_fifth_of_the_users_is_unseen_and_reported_by_labels(finished: Path) -> None:
    result = result_of(finished)
    head, file = _read_head(finished / "head")
    assert result.num_users == len(file.users) == len(head.user_logits_UK) == 8
    assert [(row.users, row.labels_per_user, row.num_users) for row in result.accuracies] == [
        ("seen", 0, 8),
        ("unseen", 2, 2),
        ("unseen", 5, 2),
    ]
    assert sum(row.num_pairs for row in result.accuracies[:2]) == 40 - 40 // 7


def test_the_judge_scores_images(finished: Path) -> None:
    judge = Judge(name="pal", scorer=Pal(), weights_digest=result_of(finished).judge_digest)
    scorer = load_scorer(judge, finished / "judge", torch.device("cpu"))
    images = [Image.open(io.BytesIO(png(seed))) for seed in (1, 2)]
    scores = scorer.score(images, ["prompt a", "prompt b"])
    assert bool(scores.isfinite().all())
    assert scores[0] != scores[1]


def test_a_second_run_gives_the_same_bytes_and_keeps_embeddings(finished: Path, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(finished, out)
    for name in ("result.json", "judge", "head"):
        (shutil.rmtree if (out / name).is_dir() else Path.unlink)(out / name)
    (out / "embeddings" / "test.json").unlink()
    kept = (out / "embeddings" / "train.safetensors").stat().st_mtime_ns
    assert shop.train(out, shop.spec()) == 0
    assert result_of(out) == result_of(finished)
    assert (out / "embeddings" / "train.safetensors").stat().st_mtime_ns == kept
    assert len(read_lines(out / "metrics.jsonl")) == 6


def test_a_chosen_mixture_and_a_single_taste(shop: Shop, tmp_path: Path) -> None:
    assert shop.train(tmp_path / "chosen", shop.spec(mixture=(1.0, 0.0))) == 0
    assert result_of(tmp_path / "chosen").mixture == (1.0, 0.0)
    single = shop.spec(head={"kind": "bradley_terry"}, unseen_users_share=0.0, validation_share=0.0)
    assert shop.train(tmp_path / "single", single) == 0
    result = result_of(tmp_path / "single")
    assert result.mixture == (1.0,)
    assert result.num_users == USERS
    assert result.best_step == 6
    (row,) = result.accuracies
    assert row.accuracy == row.baseline_accuracy


def test_held_out_prompts_and_users_are_not_trained_on(shop: Shop) -> None:
    """Embeddings that encode the number of their pair, so that every part can be identified."""
    count = 300
    numbers_ND = torch.arange(count, dtype=torch.float32).unsqueeze(1)
    users = tuple(f"user{index % USERS}" for index in range(count))
    prompts = tuple(hashlib.sha256(str(index % 40).encode()).hexdigest() for index in range(count))
    data = EmbeddedComparisons(numbers_ND, numbers_ND, numbers_ND, users, prompts)
    parts = train_reward._divide(data, data, shop.spec(validation_share=0.3), torch.device("cpu"))
    rows = {name: set(getattr(parts, name).chosen_ND.flatten().int().tolist()) for name in ("training", "validation")}
    labels = set(parts.unseen_labels.chosen_ND.flatten().int().tolist())
    assert rows["training"] | rows["validation"] | labels == set(range(count))
    assert not {prompts[row] for row in rows["training"]} & {prompts[row] for row in rows["validation"]}
    assert 0.1 < len(rows["validation"]) / (count - len(labels)) < 0.5
    assert {users[row] for row in labels} == {f"user{u}" for u in range(USERS)} - set(parts.users)
    for row, user in zip(parts.training.chosen_ND.flatten().int(), parts.training.users_N, strict=True):
        assert parts.users[user] == users[row]


@pytest.mark.parametrize("name", ["snapshot_digest", "embedder_digest"])
def test_a_missing_input_is_named(shop: Shop, tmp_path: Path, name: str) -> None:
    spec = shop.spec().model_copy(update={name: "f" * 64})
    assert shop.train(tmp_path / "out", spec) == 2
    assert "f" * 64 in failure_of(tmp_path / "out").message


def test_bad_images_and_output_of_another_spec_are_refused(
    shop: Shop, make_shop: Callable[..., Shop], finished: Path, tmp_path: Path
) -> None:
    damaged = make_shop(damaged=True)
    assert damaged.train(tmp_path / "out", damaged.spec()) != 0
    assert f"{3:064x}" in failure_of(tmp_path / "out").message
    shutil.copytree(finished, tmp_path / "other")
    (tmp_path / "other" / "result.json").unlink()
    assert shop.train(tmp_path / "other", shop.spec(steps=7)) == 2
    assert "another reward spec" in failure_of(tmp_path / "other").message
