"""Replays recorded cases of the methods' own code through ours: `python tests/golden/replay.py DIR`.

DIR holds one folder a method; its index.json lists cases, each CASE.json (fields with role, shape and scalar values)
and CASE.safetensors (arrays). What a case can check follows from the fields that it carries, not from its name, so
another folder of the same layout replays as well. One line a case; exit code 1 if any failed, and a method that is not
built counts as failed.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from alignment.backbones.noise_schedule import NoiseSchedule, checked_prediction_type, schedule_from_betas
from alignment.objectives.catalogue import SFT, DiffusionDPO
from alignment.objectives.diffusion_dpo import diffusion_dpo_loss
from alignment.objectives.inputs import PairErrors
from alignment.objectives.sft import sft_loss
from alignment.training.batches import PairBatch
from alignment.training.offline import monitors, noise_pairs, pair_errors
from tests.golden.replays import model_soups, pal

RELATIVE = 1e-5
FLOAT32_SPACING = 2.0**-23


class NotBuiltError(Exception):
    """The case needs a part that does not exist yet."""


@dataclass
class Case:
    """One recorded case and what replaying it found."""

    method: str
    name: str
    params: dict[str, Any]
    fields: dict[str, dict[str, Any]]
    tensors: dict[str, Tensor]
    checked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __getitem__(self, name: str) -> Tensor:
        """A field as a tensor; scalars may be in the JSON alone."""
        if name in self.tensors:
            return self.tensors[name]
        value = torch.tensor(self.fields[name]["value"])
        return value.reshape(self.fields[name]["shape"])

    def expect(self, name: str, ours: Tensor, *, absolute: float = 0.0, against: Tensor | None = None) -> None:
        """Compare with a recorded field, if the case has it; the largest excess over the tolerance is reported."""
        if against is None and name not in self:
            return
        theirs = (self[name] if against is None else against).double()
        ours = ours.detach().double()
        self.checked.append(name)
        if ours.shape != theirs.shape:
            self.wrong.append(f"{name}: shape {tuple(ours.shape)}, recorded {tuple(theirs.shape)}")
        elif not torch.allclose(ours, theirs, rtol=RELATIVE, atol=absolute, equal_nan=True):
            worst = (ours - theirs).abs().max().item()
            self.wrong.append(f"{name}: off by up to {worst:.3g} (allowed {absolute:.3g} + {RELATIVE:g} relative)")

    def require(self, what: str, holds: bool) -> None:
        """A fact that must hold."""
        self.checked.append(what)
        if not holds:
            self.wrong.append(f"{what} does not hold")


# --- the objective ----------------------------------------------------------------------------------------------------


def replay_dpo(case: Case) -> None:
    """Errors, margin, loss, accuracy and gradient of a Diffusion-DPO case."""
    prediction = case["model_pred"].float().requires_grad_(True)
    target = _target(case)
    policy = pair_errors(prediction, target)
    reference = pair_errors(case["ref_pred"], target)
    # The authors' beta carries a factor 0.5 that diffusers' SD1.x script dropped; ours is the authors'.
    scale = 2.0 if "logits" in case or "loss_type" in case.params else 1.0
    params = DiffusionDPO.model_validate(
        {"beta": scale * case.params["beta_dpo"], "link": case.params.get("loss_type", "sigmoid")}
    )
    output = diffusion_dpo_loss(policy, reference, params)
    output.loss_B.mean().backward()
    assert prediction.grad is not None
    largest = max(errors.max().item() for errors in (policy.chosen_B, policy.rejected_B, reference.chosen_B))
    rounding = 4 * FLOAT32_SPACING * largest
    logit_rounding = 0.5 * params.beta * rounding
    if _reference_was_rounded(case):
        _expect_float32_answer(case, output.margin_B, output.loss_B.mean(), logit_rounding)
        return
    _expect_errors(case, policy, reference, rounding)
    case.expect("inside_term", output.margin_B, absolute=logit_rounding)
    case.expect("logits", output.margin_B / params.beta * 2, absolute=rounding)
    case.expect("loss", output.loss_B.mean(), absolute=min(1.0, logit_rounding))
    case.expect("grad_model_pred", prediction.grad, absolute=_gradient_rounding(case, logit_rounding))
    _expect_accuracy(case, output.margin_B, monitors(output, policy, reference)["implicit_accuracy"])


def _expect_errors(case: Case, policy: PairErrors, reference: PairErrors, rounding: float) -> None:
    case.expect("model_losses_w", policy.chosen_B)
    case.expect("model_losses_l", policy.rejected_B)
    case.expect("ref_losses_w", reference.chosen_B)
    case.expect("ref_losses_l", reference.rejected_B)
    case.expect("model_diff", policy.chosen_B - policy.rejected_B, absolute=rounding)
    case.expect("ref_diff", reference.chosen_B - reference.rejected_B, absolute=rounding)
    case.expect("raw_model_loss", torch.cat([policy.chosen_B, policy.rejected_B]).mean())
    case.expect("raw_ref_loss", torch.cat([reference.chosen_B, reference.rejected_B]).mean())


def _expect_accuracy(case: Case, margin_B: Tensor, ours_B: Tensor) -> None:
    """diffusers counts an exact tie as half, as we do; the authors count it as wrong."""
    if "logits" in case:
        case.expect("implicit_acc", ours_B.mean(), absolute=1e-6)
    else:
        case.expect("implicit_acc", (margin_B > 0).float().mean(), absolute=1e-6)
        if bool((margin_B == 0).any()):
            case.remarks.append("ties counted as the authors do; our monitor counts them half")


def _gradient_rounding(case: Case, logit_rounding: float) -> float:
    """The gradient is the derivative of the link, in (0, 1), times a vector: a logit's rounding moves the former."""
    largest = case["grad_model_pred"].abs().max().item() if "grad_model_pred" in case else 0.0
    return min(0.25, logit_rounding) * largest + 1e-12


def _reference_was_rounded(case: Case) -> bool:
    return case.fields["ref_pred"]["dtype"] in {"float16", "bfloat16"}


def _expect_float32_answer(case: Case, margin_B: Tensor, loss: Tensor, absolute: float) -> None:
    """Where the recorded run lost precision, ours must be the recorded float32 answer, and unlike the rounded one."""
    case.expect("inside_term_fp32_reference", margin_B, absolute=absolute)
    case.expect("loss_fp32_reference", loss, absolute=absolute)
    if "loss" in case:
        lost = (case["loss"].double() - loss.detach().double()).abs().item()
        case.remarks.append(f"half-precision reference is off by {lost:.3g} in the loss; ours is the float32 answer")


def replay_sft(case: Case) -> None:
    """The SFT branch: every row is a preferred image."""
    prediction = case["model_pred"].float().requires_grad_(True)
    errors_B = (prediction - case["target"].float()).square().flatten(1).mean(dim=1)
    loss = sft_loss(PairErrors(errors_B, errors_B.detach()), SFT()).loss_B.mean()
    loss.backward()
    assert prediction.grad is not None
    case.expect("loss", loss)
    case.expect("grad_model_pred", prediction.grad, absolute=1e-9)


# --- noise ------------------------------------------------------------------------------------------------------------


def _schedule(case: Case) -> NoiseSchedule:
    name = case.params.get("prediction_type", "epsilon")
    return NoiseSchedule(case["alphas_cumprod"], checked_prediction_type(name, case.name))


def _batch(case: Case) -> PairBatch:
    """The case as one of our batches, the loser's noise and timestep left out: sharing is our batch's layout."""
    chosen_BCHW, rejected_BCHW = case["latents"].chunk(2)
    pairs = len(chosen_BCHW)
    return PairBatch(
        chosen_BCHW=chosen_BCHW,
        rejected_BCHW=rejected_BCHW,
        noise_BCHW=case["noise"][:pairs],
        timesteps_B=case["timesteps"][:pairs],
        chosen_captions={},
        rejected_captions={},
        weight_B=torch.ones(pairs),
    )


def _target(case: Case) -> Tensor:
    """Our regression target, checked where the case recorded one; the recorded one where it cannot be computed."""
    if not {"latents", "noise", "timesteps", "alphas_cumprod"} <= set(case.fields):
        return case["target"]
    noised = noise_pairs(_batch(case), _schedule(case))
    case.expect("target", noised.target_BCHW, absolute=1e-6)
    case.expect("noisy_latents", noised.noisy_BCHW, absolute=1e-6)
    return noised.target_BCHW


def replay_batch(case: Case) -> None:
    """Noise and timestep are shared inside a pair, and noised latents follow from them."""
    schedule = _schedule(case)
    noised = noise_pairs(_batch(case), schedule)
    case.expect("noise", noised.target_BCHW, absolute=0.0)
    case.require("timesteps shared", torch.equal(case["timesteps"], noised.timesteps_B))
    if "new_noise" not in case:
        case.expect("noisy_latents", noised.noisy_BCHW, absolute=1e-6)
        return
    perturbed = schedule.add_noise(case["latents"], case["new_noise"], case["timesteps"])
    case.expect("noisy_latents", perturbed, absolute=1e-6)
    case.remarks.append("input perturbation is not offered: the recorded code gives the loser unrelated noise")


def replay_terminal_snr(case: Case) -> None:
    """A scheduler configuration that asks for zero terminal SNR is honoured."""
    from diffusers import DDPMScheduler

    case.expect("alphas_cumprod_before", schedule_from_betas(case["betas"], "epsilon").alphas_cumprod_T)
    scheduler = DDPMScheduler(trained_betas=case["betas"].numpy(), rescale_betas_zero_snr=True)
    ours = NoiseSchedule(scheduler.alphas_cumprod.float(), "epsilon").alphas_cumprod_T
    case.expect("alphas_cumprod_after", ours, absolute=1e-7)


# --- data -------------------------------------------------------------------------------------------------------------


def replay_pair_order(case: Case) -> None:
    """Labels decide which image is chosen; a tie is dropped at intake, whatever the recorded code made of it."""
    from pipelines.intake.sources.pick_a_pic import preference_from_labels

    if case.params.get("choice_model"):
        raise NotBuiltError("pair labelling by a scorer (labelling/proxy_vote)")
    recorded = case["pixel_values"]
    ties = 0
    for row, label_0 in enumerate(case["label_0"].tolist()):
        preference = preference_from_labels(label_0, 1 - label_0)
        if preference == 0.5:
            ties += 1
            continue
        case.require(f"row {row} has a legal label", not math.isnan(preference))
        order = ("jpg_0_uint8", "jpg_1_uint8") if preference == 1 else ("jpg_1_uint8", "jpg_0_uint8")
        ours = torch.cat([_pixels(case, name, row) for name in order])
        case.expect(f"pixel_values[{row}]", ours, absolute=1e-6, against=recorded[row])
    if ties:
        case.remarks.append(f"{ties} tie(s) dropped; the recorded code takes image 0 unless ties were filtered before")
    if "feed_pixel_values" in case:
        case.expect("feed_pixel_values", torch.cat(recorded.chunk(2, dim=1)), absolute=0.0)


def _pixels(case: Case, name: str, row: int) -> Tensor:
    import io

    from PIL import Image

    from alignment.data.pairs import pixels

    buffer = io.BytesIO()
    Image.fromarray(case[name][row].numpy()).save(buffer, format="PNG")
    return pixels(buffer.getvalue(), int(case.params["resolution"]), f"{name}[{row}]")


# --- which replay a case gets -----------------------------------------------------------------------------------------

REPLAYS: tuple[tuple[set[str], Callable[[Case], None]], ...] = (
    ({"model_pred", "ref_pred"}, replay_dpo),
    ({"model_pred", "target", "loss"}, replay_sft),
    ({"jpg_0_uint8", "jpg_1_uint8", "label_0", "pixel_values"}, replay_pair_order),
    ({"betas", "alphas_cumprod_after"}, replay_terminal_snr),
    ({"latents", "noise", "timesteps", "noisy_latents", "alphas_cumprod"}, replay_batch),
    (model_soups.NEEDED, model_soups.replay),
    (pal.NEEDED, pal.replay),
)
"""The first whose fields a case has."""
METHODS = {"diffusion_dpo", "diffusion_dpo_diffusers", "model_soups", "pal"}


def read_case(folder: Path, name: str) -> Case:
    """A case's JSON and, where it has one, its arrays."""
    recorded = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    arrays = folder / f"{name}.safetensors"
    tensors = load_file(arrays) if arrays.is_file() else {}
    return Case(folder.name, name, recorded["params"], recorded["fields"], tensors)


def replay_case(folder: Path, name: str) -> tuple[bool, str]:
    """Whether a case passed, and its line."""
    title = f"{folder.name}/{name}"
    try:
        if folder.name not in METHODS:
            raise NotBuiltError(f"method {folder.name}")
        case = read_case(folder, name)
        if "flip" in case:
            raise NotBuiltError("pair labelling by a scorer (labelling/proxy_vote)")
        replay = next((replay for needed, replay in REPLAYS if needed <= set(case.fields)), None)
        if replay is None:
            raise NotBuiltError(f"nothing of ours takes {', '.join(sorted(case.fields))}")
        replay(case)
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
    print(f"{sum(outcomes)} passed, {len(outcomes) - sum(outcomes)} failed")
    return 0 if outcomes and all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
