"""Describe the lineage from pairs to verdict: every stage with its digests, and the commands that reproduce it."""

from dataclasses import dataclass

from alignment.contracts.evaluation import EvalReport
from pipelines.contracts.release import GateDecision
from pipelines.release.pages.judges import scorers
from pipelines.release.pages.provenance import Provenance
from pipelines.release.pages.wording import pair_counts

SHORT = 12
"""Characters of a digest that are shown; a click shows all of it."""

Digests = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Step:
    """One stage of the lineage."""

    title: str
    text: str
    digests: Digests = ()
    """(what, sha256)."""
    places: tuple[str, ...] = ()
    """URIs."""


def lineage(report: EvalReport, decision: GateDecision, known: Provenance) -> list[_Step]:
    """Return the stages in the order of the data flow; stages without a record in the store are marked."""
    return [
        _sources(decision, known),
        _batches(known),
        _snapshot(decision, known),
        _features(known),
        _training(decision, known),
        _weights(decision, known),
        _candidate(decision),
        _evaluation(report, decision),
        _Step(
            "decision",
            f"Verdict {decision.verdict}, mode {decision.mode}.",
            (("decision", decision.digest), ("policy", decision.policy_digest)),
        ),
    ]


def _sources(decision: GateDecision, known: Provenance) -> _Step:
    named = [f"{source.name} ({source.kind}, licence {source.licence})" for source in known.sources]
    text = ", ".join(named or decision.candidate.trained_on) or "Not recorded"
    return _Step("sources", f"{text}.", places=tuple(source.uri for source in known.sources if source.uri))


def _batches(known: Provenance) -> _Step:
    digests = known.snapshot.batch_digests if known.snapshot else ()
    count = f"{len(digests)} immutable batch{'es' * (len(digests) != 1)}, validated row by row."
    named = tuple((f"batch {number}", digest) for number, digest in enumerate(digests, 1))
    return _Step("batches", count if digests else "No record in the store.", named)


def _snapshot(decision: GateDecision, known: Provenance) -> _Step:
    candidate, snapshot = decision.candidate, known.snapshot
    digests: Digests = (("snapshot", candidate.snapshot_digest),)
    places = (candidate.snapshot_uri,) if candidate.snapshot_uri else ()
    if snapshot is None:
        return _Step("snapshot", "Only the digest is recorded.", digests, places)
    counts = pair_counts(snapshot, known.result.num_pairs if known.result else None)
    text = f"{counts}; {snapshot.num_prompts} prompts, {snapshot.num_ties} ties in all."
    if snapshot.num_soft:
        text += f" {snapshot.num_soft} labels are shares of votes: training took the favoured image and left out ties."
    text += f" Licences: {', '.join(snapshot.licences)}."
    return _Step("snapshot", text, (*digests, ("held-out prompts", snapshot.heldout_prompts_digest)), places)


def _features(known: Provenance) -> _Step:
    cache = known.cache
    if cache is None:
        online = any(recipe.objective.online for recipe in known.recipes)
        return _Step("features", "None: the run drew its own images." if online else "No record in the store.")
    shape = " x ".join(map(str, cache.latent_shape))
    text = f"{cache.num_pairs} training pairs with a preference, encoded as latents of shape {shape}."
    return _Step("features", text, (("cache", cache.content_digest), ("spec", cache.spec_digest)), (cache.uri,))


def _training(decision: GateDecision, known: Provenance) -> _Step:
    names = ", ".join(f"{recipe.name}, seed {recipe.seed}" for recipe in known.recipes)
    text = f"Recipe {names}." if names else "The store has no recipe; the MLflow run may have it as config.json."
    digests: Digests = (("spec", decision.candidate.spec_digest), ("base model", decision.candidate.base_digest))
    if known.soup is not None:
        text = f"The average of {len(known.soup.ingredients)} runs. {text}"
        digests += tuple((f"ingredient {n}", digest) for n, digest in enumerate(known.soup.ingredients, 1))
    return _Step("training", text, digests)


def _weights(decision: GateDecision, known: Provenance) -> _Step:
    candidate, result = decision.candidate, known.result
    kind = "A LoRA adapter" if candidate.kind == "lora" else "The complete denoiser"
    text = f"{kind} after {result.steps} steps." if result else f"{kind}."
    return _Step("weights", text, (("weights", candidate.weights_digest),), (candidate.weights_uri,))


def _candidate(decision: GateDecision) -> _Step:
    candidate = decision.candidate
    sources = ", ".join(candidate.trained_on) or "not recorded"
    text = f"{candidate.model}, version {candidate.version}. Trained on: {sources}. MLflow run {candidate.run_id}."
    return _Step("candidate", text)


def _evaluation(report: EvalReport, decision: GateDecision) -> _Step:
    spec, sampler = report.spec, report.spec.sampler
    seeds = ", ".join(map(str, spec.seeds))
    version = decision.champion_version
    opponent = "the base model" if version is None else f"version {version}"
    text = (
        f"{report.num_prompts} prompts, seeds {seeds}; {sampler.scheduler}, {sampler.steps} steps,"
        f" guidance {sampler.guidance_scale:g}; compared with {opponent}."
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
    return _Step("evaluation", text, digests, (report.uri,) if report.uri else ())


def commands(decision: GateDecision) -> list[tuple[str, str]]:
    """Return the commands that reproduce the verdict, as (purpose, command) pairs."""
    project, version = f"projects/{decision.candidate.model}.toml", decision.candidate.version
    return [
        ("Find the score table, or compute it again:", f"plumbline evaluate {project} --version {version}"),
        ("Decide again from the score table:", f"plumbline gate {project} --version {version}"),
        ("Explain the decision in sentences:", f"plumbline gate explain {project}"),
    ]
