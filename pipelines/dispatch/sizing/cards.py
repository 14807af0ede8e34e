"""Cards with their memory and rates, and the pace of a training that follows from the work of a pair. Torch-free.

Rates are the makers' dense figures. A training reaches a part of them: `UTILISATION` is an assumption until a run on
the card has measured it, so every pace that follows is an estimate.
"""

from collections.abc import Mapping, Sequence

from alignment.catalogues.record import Record
from alignment.contracts.training import FullFineTune
from pipelines.dispatch.sizing.architecture import Precision, Unit, repeated_share
from pipelines.dispatch.sizing.memory import TrainingCase

UTILISATION = 0.4
"""Share of a card's dense rate that a training reaches; measured figures of well-made trainers are 0.3 to 0.5."""


class Card(Record):
    """A GPU."""

    name: str
    memory_gib: float
    """Memory that its driver reports."""
    tflops: dict[Precision, float]
    """Dense rate with sums in float32. `fp32` is the rate without TF32, which torch uses by default."""
    marks: tuple[str, ...]
    """Words of the driver's name of the card, all of which it has."""


CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        Card(name="l4", memory_gib=22.5, tflops={"bf16": 121, "fp32": 30.3}, marks=("L4",)),
        Card(name="a10g", memory_gib=22.5, tflops={"bf16": 70, "fp32": 31.2}, marks=("A10G",)),
        Card(name="rtx4090", memory_gib=24.0, tflops={"bf16": 165, "fp32": 82.6}, marks=("RTX", "4090")),
        Card(name="l40s", memory_gib=45.0, tflops={"bf16": 362, "fp32": 91.6}, marks=("L40S",)),
        Card(name="a6000", memory_gib=48.0, tflops={"bf16": 155, "fp32": 38.7}, marks=("RTX", "A6000")),
        Card(name="a100", memory_gib=80.0, tflops={"bf16": 312, "fp32": 19.5}, marks=("A100", "80GB")),
        Card(name="h100", memory_gib=79.6, tflops={"bf16": 989, "fp32": 67}, marks=("H100", "HBM3")),
        Card(name="h200", memory_gib=140.4, tflops={"bf16": 989, "fp32": 67}, marks=("H200",)),
    )
}
"""Cards by the name that `plumbline plan --gpu` takes. Source: the makers' data sheets; memory as drivers report it."""


OTHER_CARDS = frozenset({"MIG", "Laptop", "D", "NVL"})
"""Words of the names of other cards, which are slower than the one they are named after: slices and variants."""


def find_card(driver_name: str) -> Card | None:
    """Return the card of a driver's name, such as `NVIDIA H100 80GB HBM3`; None for an unknown one."""
    words = set(driver_name.replace("-", " ").split())
    if words & OTHER_CARDS:
        return None
    return next((card for card in CARDS.values() if set(card.marks) <= words), None)


def pair_flops(case: TrainingCase, units: Sequence[Unit]) -> float:
    """Return the operations of a pair of images in one training step.

    Forward passes' worth: one of the policy; one of its backward pass with adapters, which has no gradients of frozen
    weights, two in a full fine-tune; one of the reference; and what gradient checkpointing repeats.
    """
    backward = 2 if isinstance(case.tuning, FullFineTune) else 1
    passes = 1 + backward + case.needs_reference + repeated_share(case.checkpoint_every)
    return 2 * passes * sum(unit.flops for unit in units)


def pairs_per_second(case: TrainingCase, units: Sequence[Unit], card: Card) -> float:
    """Estimate the pairs that one card trains on in a second."""
    return UTILISATION * card.tflops[case.compute] * 1e12 / pair_flops(case, units)
