"""Loading a scorer by its catalogue entry, and the digest that decides if scores may be compared."""

from pathlib import Path

import pytest
import torch

from alignment.catalogues.rewards import ClipPreference, ClipScore, Reward
from alignment.contracts.judges import Judge
from alignment.rewards.clip_preference import ClipPreferenceScorer
from alignment.rewards.clip_score import ClipScoreScorer
from alignment.rewards.interface import load_scorer, scorer_digest

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(
    ("params", "expected"), [(ClipPreference(), ClipPreferenceScorer), (ClipScore(), ClipScoreScorer)]
)
def test_a_judge_loads_the_scorer_it_names(tiny_clip_dir: Path, params: Reward, expected: type) -> None:
    judge = Judge(name="j", scorer=params, weights_digest="a" * 64)
    scorer = load_scorer(judge, tiny_clip_dir, torch.device("cpu"))
    assert type(scorer) is expected
    assert scorer.digest == scorer_digest(params, weights_digest="a" * 64, processor_backend="pil", dtype="float32")


def test_the_digest_depends_on_everything_that_affects_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(**changes: str) -> str:
        given = {"weights_digest": "a" * 64, "processor_backend": "pil", "dtype": "float32", **changes}
        return scorer_digest(ClipPreference(), **given)

    digests = {
        digest(),
        digest(weights_digest="b" * 64),
        digest(processor_backend="torchvision"),
        digest(dtype="bfloat16"),
        scorer_digest(ClipScore(), weights_digest="a" * 64, processor_backend="pil", dtype="float32"),
    }
    assert len(digests) == 5
    before = digest()
    assert digest() == before
    monkeypatch.setattr("alignment.rewards.interface.version", lambda name: "0.0")
    assert digest() != before
