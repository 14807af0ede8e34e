"""The soup job: uniform and greedy over folders of weights, resumed, and given weights that cannot be averaged."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.evaluation import Sampler
from alignment.contracts.jobs import JobFailure, Placement
from alignment.contracts.judges import Judge
from alignment.contracts.soup import Greedy, SoupIngredient, SoupResult, SoupSpec, Uniform
from alignment.contracts.training import Recipe, TrainResult
from alignment.files.durable import content_digest
from alignment.jobs import soup
from alignment.jobs.outcome import JobPaths, exit_code

pytestmark = pytest.mark.timeout(300)
PROMPTS = "prompt\tcategory\na plain red picture\tplain\na plain blue picture\tplain\n"
UNET = "unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Kitchen:
    """Inputs by digest: the base, a judge, the prompts, and three fine-tuned denoisers."""

    inputs: Path
    recipe: Recipe
    base_digest: str
    judge_digest: str
    prompts_digest: str
    digests: tuple[str, ...]

    def ingredient(self, index: int, **changes: Any) -> SoupIngredient:
        result = {
            "uri": "",
            "spec_digest": "0" * 64,
            "kind": "full",
            "weights_digest": self.digests[index],
            "base_digest": self.base_digest,
            "steps": 10,
            "num_pairs": 24,
            "final_metrics": {},
        }
        return SoupIngredient(recipe=self.recipe, result=TrainResult.model_validate(result | changes))

    def of_another_family(self, index: int) -> SoupIngredient:
        other = Recipe.model_validate(self.recipe.model_dump(mode="json") | {"objective": {"name": "sft"}})
        return self.ingredient(index).model_copy(update={"recipe": other})

    def greedy(self, minimum_gain: float) -> Greedy:
        return Greedy(
            judge=Judge(name="taste", scorer=ClipPreference(), weights_digest=self.judge_digest),
            prompts_digest=self.prompts_digest,
            seeds=(1, 2),
            sampler=Sampler(steps=2, guidance_scale=1.0),
            minimum_gain=minimum_gain,
        )

    def weights(self, index: int) -> dict[str, torch.Tensor]:
        return load_file(self.inputs / self.digests[index] / UNET)

    def cook(self, out: Path, spec: SoupSpec) -> int:
        """Run the job here; its exit code."""
        folder = out.parent / f"{out.name}_job"
        folder.mkdir(exist_ok=True)
        (folder / "spec.json").write_text(spec.model_dump_json())
        (folder / "placement.json").write_text(Placement().model_dump_json())
        threads = torch.get_num_threads()
        try:
            return exit_code(soup.main, JobPaths(folder / "spec.json", folder / "placement.json", self.inputs, out))
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def kitchen(tiny_sd_dir: Path, tiny_clip_dir: Path, bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    from diffusers import UNet2DConditionModel

    root = tmp_path_factory.mktemp("kitchen")
    inputs = root / "inputs"
    generator = torch.Generator().manual_seed(1)
    digests = []
    for index in range(3):
        unet = UNet2DConditionModel.from_pretrained(tiny_sd_dir / "unet")
        with torch.no_grad():
            for weight in unet.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        unet.save_pretrained(root / str(index) / "unet")
        # save_pretrained notes where the base came from, which differs from run to run; the train job drops it.
        digests.append(content_digest(root / str(index)))
        shutil.copytree(root / str(index), inputs / digests[-1])
    for folder in (tiny_sd_dir, tiny_clip_dir):
        shutil.copytree(folder, inputs / content_digest(folder))
    prompts_digest = hashlib.sha256(PROMPTS.encode()).hexdigest()
    (inputs / prompts_digest).write_text(PROMPTS)
    recipe = bench.train_spec(tuning={"kind": "full"}).recipe
    sources = (content_digest(tiny_sd_dir), content_digest(tiny_clip_dir), prompts_digest)
    return Kitchen(inputs, recipe, *sources, tuple(digests))


def result_of(out: Path) -> SoupResult:
    return SoupResult.model_validate_json((out / "result.json").read_text())


def failure_of(out: Path) -> JobFailure:
    return JobFailure.model_validate_json((out / "failure.json").read_text())


@pytest.fixture(scope="module")
def greedy_out(kitchen: Kitchen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("soup") / "greedy"
    spec = SoupSpec(ingredients=tuple(map(kitchen.ingredient, range(3))), method=kitchen.greedy(0.0))
    assert kitchen.cook(out, spec) == 0
    return out


def test_uniform_soup_is_the_mean_and_uses_no_judge(kitchen: Kitchen, tmp_path: Path) -> None:
    spec = SoupSpec(ingredients=tuple(map(kitchen.ingredient, range(3))), method=Uniform())
    assert kitchen.cook(tmp_path / "out", spec) == 0
    result = result_of(tmp_path / "out")
    assert result.weights_digest == content_digest(tmp_path / "out" / "weights")
    assert result.ingredients == kitchen.digests
    assert result.chosen_by == ()
    assert not (tmp_path / "out" / "samples").exists()
    name = "conv_in.weight"
    mean = torch.stack([kitchen.weights(index)[name] for index in range(3)]).mean(dim=0)
    torch.testing.assert_close(load_file(tmp_path / "out" / "weights" / UNET)[name], mean)


def test_greedy_soup_keeps_ingredients_that_raise_the_judges_score(kitchen: Kitchen, greedy_out: Path) -> None:
    result = result_of(greedy_out)
    best = result.own_scores.index(max(result.own_scores))
    assert result.ingredients[0] == kitchen.digests[best]
    assert len(set(result.own_scores)) == 3
    assert result.chosen_by == kitchen.greedy(0.0).judge.training_sources
    assert len(result.attempts) == 2
    reached = max(result.own_scores)
    for attempt in result.attempts:
        assert attempt.kept == (attempt.score > reached)
        reached = max(reached, attempt.score)
    kept = [kitchen.weights(kitchen.digests.index(digest))["conv_in.bias"] for digest in result.ingredients]
    soup_bias = load_file(greedy_out / "weights" / UNET)["conv_in.bias"]
    torch.testing.assert_close(soup_bias, torch.stack(kept).mean(dim=0))
    assert len(list((greedy_out / "samples").iterdir())) == 5
    assert {len(list(folder.iterdir())) for folder in (greedy_out / "samples").iterdir()} == {4}


def test_an_unreachable_gain_keeps_only_the_best_ingredient(kitchen: Kitchen, greedy_out: Path, tmp_path: Path) -> None:
    spec = SoupSpec(ingredients=tuple(map(kitchen.ingredient, range(3))), method=kitchen.greedy(1e6))
    shutil.copytree(greedy_out / "samples", tmp_path / "out" / "samples")
    assert kitchen.cook(tmp_path / "out", spec) == 0
    result = result_of(tmp_path / "out")
    assert result.own_scores == result_of(greedy_out).own_scores, "images of an earlier run are the same images"
    assert result.ingredients == result_of(greedy_out).ingredients[:1]
    alone = kitchen.inputs / result.ingredients[0] / UNET
    assert torch.equal(load_file(tmp_path / "out" / "weights" / UNET)["conv_in.bias"], load_file(alone)["conv_in.bias"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda k: (k.ingredient(0), k.ingredient(1, base_digest="b" * 64)), "base bbbbbbbbbbbb, not"),
        (lambda k: (k.ingredient(0),), "two ingredients or more, got 1"),
        (lambda k: (k.ingredient(0), k.of_another_family(1)), "recipe family"),
        (lambda k: (k.ingredient(0), k.ingredient(1, weights_digest="c" * 64)), "is not in"),
    ],
)
def test_weights_that_cannot_be_averaged_are_one_error_and_exit_code_2(
    kitchen: Kitchen, tmp_path: Path, change: Callable[[Kitchen], tuple[SoupIngredient, ...]], complaint: str
) -> None:
    spec = SoupSpec(ingredients=change(kitchen), method=Uniform())
    assert kitchen.cook(tmp_path / "out", spec) == 2
    assert complaint in failure_of(tmp_path / "out").message
    assert not (tmp_path / "out" / "weights").exists()
