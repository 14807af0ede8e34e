"""From pairs to verdict: every stage with its digests, and how to come to the same verdict again."""

from dataclasses import dataclass

from alignment.contracts.evaluation import EvalReport
from pipelines.contracts.release import GateDecision
from pipelines.release.pages.judges import scorers
from pipelines.release.pages.provenance import Provenance

SHORT = 12
"""Characters of a digest that are shown; the whole one unfolds."""

Digests = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Step:
    """One stage."""

    title: str
    says: str
    digests: Digests = ()
    """(what, sha256)."""
    places: tuple[str, ...] = ()
    """URIs."""


def lineage(report: EvalReport, decision: GateDecision, known: Provenance) -> list[Step]:
    """Stages in the order in which data flows; those that the store has no trace of say so."""
    return [
        _sources(decision, known),
        _batches(known),
        _snapshot(decision, known),
        _features(known),
        _training(decision, known),
        _weights(decision, known),
        _candidate(decision),
        _evaluation(report, decision),
        Step(
            "decision",
            f"{decision.verdict}, mode {decision.mode}.",
            (("decision", decision.digest), ("policy", decision.policy_digest)),
        ),
    ]


def _sources(decision: GateDecision, known: Provenance) -> Step:
    named = [f"{source.name} ({source.kind}, licence {source.licence})" for source in known.sources]
    says = ", ".join(named or decision.candidate.trained_on) or "Nothing that is named"
    return Step("sources", f"{says}.", places=tuple(source.uri for source in known.sources if source.uri))


def _batches(known: Provenance) -> Step:
    digests = known.snapshot.batch_digests if known.snapshot else ()
    count = f"{len(digests)} immutable batch{'es' * (len(digests) != 1)}, validated row by row."
    named = tuple((f"batch {number}", digest) for number, digest in enumerate(digests, 1))
    return Step("batches", count if digests else "No trace in the store.", named)


def _snapshot(decision: GateDecision, known: Provenance) -> Step:
    candidate, snapshot = decision.candidate, known.snapshot
    digests: Digests = (("snapshot", candidate.snapshot_digest),)
    places = (candidate.snapshot_uri,) if candidate.snapshot_uri else ()
    if snapshot is None:
        return Step("snapshot", "No trace in the store but its digest.", digests, places)
    counts = ", ".join(f"{count} {split}" for split, count in snapshot.num_pairs.items())
    says = f"Pairs: {counts}; {snapshot.num_prompts} prompts, {snapshot.num_ties} ties."
    says += f" Licences: {', '.join(snapshot.licences)}."
    return Step("snapshot", says, (*digests, ("held-out prompts", snapshot.heldout_prompts_digest)), places)


def _features(known: Provenance) -> Step:
    cache = known.cache
    if cache is None:
        online = any(recipe.objective.online for recipe in known.recipes)
        return Step("features", "None: the run drew its own images." if online else "No trace in the store.")
    says = f"{cache.num_pairs} pairs as latents of {' x '.join(map(str, cache.latent_shape))}."
    return Step("features", says, (("cache", cache.content_digest), ("spec", cache.spec_digest)), (cache.uri,))


def _training(decision: GateDecision, known: Provenance) -> Step:
    names = ", ".join(f"{recipe.name}, seed {recipe.seed}" for recipe in known.recipes)
    says = f"Recipe {names}." if names else "The store kept no recipe; the run in MLflow may have it as config.json."
    digests: Digests = (("spec", decision.candidate.spec_digest), ("base model", decision.candidate.base_digest))
    if known.soup is not None:
        says = f"The average of {len(known.soup.ingredients)} runs. {says}"
        digests += tuple((f"ingredient {n}", digest) for n, digest in enumerate(known.soup.ingredients, 1))
    return Step("training", says, digests)


def _weights(decision: GateDecision, known: Provenance) -> Step:
    candidate, result = decision.candidate, known.result
    kind = "A LoRA adapter" if candidate.kind == "lora" else "The whole denoiser"
    says = f"{kind} after {result.steps} steps." if result else f"{kind}."
    return Step("weights", says, (("weights", candidate.weights_digest),), (candidate.weights_uri,))


def _candidate(decision: GateDecision) -> Step:
    candidate = decision.candidate
    learnt = ", ".join(candidate.trained_on) or "nothing that is named"
    says = f"{candidate.model}, version {candidate.version}; learnt from or was chosen by {learnt}."
    return Step("candidate", f"{says} Run {candidate.run_id}.")


def _evaluation(report: EvalReport, decision: GateDecision) -> Step:
    spec, sampler = report.spec, report.spec.sampler
    seeds = ", ".join(map(str, spec.seeds))
    says = (
        f"{report.num_prompts} prompts, seeds {seeds}; {sampler.scheduler}, {sampler.steps} steps,"
        f" guidance {sampler.guidance_scale:g}; against {decision.champion_version or 'the base model'}."
    )
    digests = (
        ("spec", spec.digest),
        ("prompts", spec.prompts_digest),
        ("champion weights", decision.champion_weights_digest),
        ("calibration snapshot", spec.snapshot_digest),
        *((f"{kind} {scorer.name}", scorer.weights_digest) for kind, scorer in scorers(report)),
        ("score table", decision.scores_digest),
        ("report", decision.report_digest),
    )
    return Step("evaluation", says, digests, (report.uri,) if report.uri else ())


def commands(decision: GateDecision) -> list[tuple[str, str]]:
    """How to come to the same verdict: what it does, what to type."""
    project, version = f"projects/{decision.candidate.model}.toml", decision.candidate.version
    return [
        ("Find or make the score table again", f"plumbline evaluate {project} --version {version}"),
        ("Judge it again, from the table alone", f"plumbline gate {project} --version {version}"),
        ("Say in sentences why", f"plumbline gate explain {project}"),
    ]
