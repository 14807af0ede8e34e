"""Names that people read in MLflow and Airflow instead of digests."""

from typing import Any

import pytest
from made_requests import made_request

from pipelines.dispatch.job_titles import job_title, short_title

RECIPE = {
    "name": "diffusion_dpo_shapes",
    "objective": {"name": "diffusion_dpo", "beta": 5000.0},
    "optimiser": {"kind": "adamw", "learning_rate": 1e-5},
    "steps": 400,
    "seed": 123456789,
}
DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("kind", "spec", "title", "short"),
    [
        (
            "train",
            {"recipe": RECIPE},
            "diffusion_dpo_shapes, beta 5000, rate 1e-05, 400 steps, seed 123456789",
            "diffusion_dpo_shapes",
        ),
        (
            "train",
            {"recipe": {"name": "sft", "objective": {"name": "sft"}, "steps": 7, "seed": 0}},
            "sft, 7 steps, seed 0",
            "sft",
        ),
        (
            "evaluate",
            {
                "candidate": {"kind": "lora", "weights_digest": DIGEST},
                "champion": {"kind": "base", "weights_digest": DIGEST},
            },
            "evaluate abababababab against base",
            "evaluate abababababab against base",
        ),
        ("encode", {"resolution": 64}, "encode words 5bec5bec5bec", "encode words 5bec5bec5bec"),
    ],
)
def test_a_job_is_named_by_what_tells_it_from_others(kind: str, spec: dict[str, Any], title: str, short: str) -> None:
    request = made_request(kind=kind, spec=spec, spec_digest="5bec" * 16, project="words")
    assert (job_title(request), short_title(request)) == (title, short)


def test_another_generation_is_named() -> None:
    request = made_request(kind="train", spec={"recipe": RECIPE}, spec_digest="5bec" * 16, generation=2)
    assert job_title(request).endswith(", seed 123456789, generation 2")
