"""Validate a RawBatch: every rule over every row; rows that break a critical rule go to quarantine.

Rules read columns of facts (rule_columns), never prompts or images. Rows without a label, and those of annotators who
are set aside, do not count as bad: a source may legitimately contain them. The snapshot handles duplicates across
batches.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from alignment.contracts.values import canonical_json
from pipelines.contracts.pairs import RawBatch, RuleResult, ValidationReport
from pipelines.contracts.store import Manifest
from pipelines.intake.checked_files import fetch_checked
from pipelines.intake.data_docs import PAGE_FILE, data_docs_page
from pipelines.intake.pairs import (
    ACCEPTED_FILE,
    PAIRS_FILE,
    PAIRS_SCHEMA,
    QUARANTINE_FILE,
    QUARANTINE_SCHEMA,
    PairWriter,
    is_unpaired,
    pairs_schema,
    quarantine_schema,
    read_batches,
    read_light,
)
from pipelines.intake.quarantine_table import quarantine_section
from pipelines.intake.rule_columns import rule_columns
from pipelines.intake.rule_runs import Judged, judge
from pipelines.intake.rules import RULES_VERSION, SET_ASIDE, columns_present, duplicate_pair, pair_rules, unpaired_rules
from pipelines.intake.scratch import scratch_dir
from pipelines.project.file import Project
from pipelines.project.sections import ValidationSection
from pipelines.records.heldout_prompts import HeldoutPrompts, heldout_prompts
from pipelines.store.storage import Store, hash_folder
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

REPLAY_MARK = "#replay-"
"""Separates, in a batch's source_file, the name of a shard from that of the report whose quarantine was validated
again.
"""
ACCEPTED, QUARANTINED, DUPLICATE = "accepted", "quarantined", "duplicate"
"""Outcomes of a row; every row has exactly one."""
_EXAMPLES = 5


def validate(batch: RawBatch, workspace: Workspace) -> ValidationReport:
    """Validate a batch and publish accepted.parquet, quarantine.parquet and data_docs/ under `raw/validated/`.

    The same batch under the same rules and held-out prompts returns the first report. The report is also entered in the
    project's index, where it replaces an earlier report on the same shard. A batch that does not pass is a report with
    `passed` false, not an error; ValueError is for a batch that cannot be read or a prompts file that is missing.
    """
    store = workspace.store
    heldout = heldout_prompts(workspace.project, workspace.store)
    inputs = {
        "version": RULES_VERSION,
        "batch": batch.content_digest,
        "limits": workspace.project.validation.model_dump(mode="json", exclude={"max_failed_shards"}),
        "heldout": heldout.digest,
        # Batches whose rows were all withdrawn have the same contents.
        **({"withdrawn": batch.num_withdrawn} if batch.num_withdrawn else {}),
    }
    uri = store.uri("raw/validated", hashlib.sha256(canonical_json(inputs).encode()).hexdigest())
    manifest = store.read_manifest(uri) or _validate(batch, workspace, uri=uri, heldout=heldout)
    report = ValidationReport.model_validate(manifest.value)
    _enter_in_index(store, workspace.project, batch, report)
    return report


def _validate(batch: RawBatch, workspace: Workspace, *, uri: str, heldout: HeldoutPrompts) -> Manifest:
    store = workspace.store
    with scratch_dir(workspace.settings) as scratch:
        pairs = fetch_checked(store, batch.uri, PAIRS_FILE, scratch)
        out = scratch / "out"
        (out / "data_docs").mkdir(parents=True)
        judged, rows = _judge(pairs, workspace.project.validation, heldout)
        reasons = _reasons(judged)
        outcomes = _split(pairs, out, reasons, readable=rows is not None)
        if rows is not None:
            assert outcomes.total() == batch.num_rows, f"{batch.uri}: {outcomes} of {batch.num_rows} rows"
        limits = workspace.project.validation
        failure = _failure(judged, reasons, batch.num_rows, limit=limits.max_quarantined_share)
        verdict = failure or _accepted(outcomes, batch.num_rows)
        table = quarantine_section(out / QUARANTINE_FILE, len(reasons), limits)
        title = f"{batch.source}: {batch.source_file}"
        page = data_docs_page(judged, title=title, verdict=verdict, quarantined=table)
        (out / "data_docs" / PAGE_FILE).write_text(page, encoding="utf-8")
        digest, files = hash_folder(out)
        report = ValidationReport(
            uri=uri,
            content_digest=digest,
            batch_digest=batch.content_digest,
            source=batch.source,
            is_unpaired=is_unpaired(pq.read_schema(pairs).names),
            passed=not failure,
            num_rows=batch.num_rows,
            num_accepted=outcomes[ACCEPTED],
            num_quarantined=outcomes[QUARANTINED] + outcomes[DUPLICATE],
            num_duplicates=outcomes[DUPLICATE],
            num_withdrawn=batch.num_withdrawn,
            rules=tuple(_rule_result(one, rows or []) for one in judged),
            failure=failure,
        )
        log.info("Validated %s of %s: %s", batch.source_file, batch.source, verdict)
        for one in judged:
            if one.failed and one.rule.name.startswith("annotator_"):
                log.warning("%s of %s: %d rows break %s.", batch.source_file, batch.source, one.failed, one.rule.name)
        return store.publish_folder(out, uri, report.model_dump(mode="json"), hashed=files, move=True)


def _judge(pairs: Path, limits: ValidationSection, heldout: HeldoutPrompts) -> tuple[list[Judged], list[int] | None]:
    """Return every rule's outcome and the source row of each row; only the schema's rule and no rows when it fails."""
    import pandas as pd

    names = [f"{field.name}: {field.type}" for field in PAIRS_SCHEMA]
    found = [f"{field.name}: {field.type}" for field in pq.read_schema(pairs)]
    schema = judge(pd.DataFrame(columns=found), [columns_present(names)])
    if schema[0].failed:
        return schema, None
    table = read_light(pairs)
    rules = unpaired_rules(limits) if is_unpaired(table.schema.names) else pair_rules(limits)
    judged = judge(rule_columns(table, limits, heldout), rules)
    return [*schema, *judged], table.column("source_row").to_pylist()


def _reasons(judged: Sequence[Judged]) -> dict[int, list[str]]:
    """Map each row number to every critical rule that the row broke."""
    reasons: dict[int, list[str]] = {}
    for one in judged:
        if one.rule.severity == "critical":
            for row in one.rows:
                reasons.setdefault(row, []).append(one.rule.name)
    return reasons


def outcome(broken: Sequence[str]) -> str:
    """Return the one outcome of a row that broke these critical rules: ACCEPTED, QUARANTINED or DUPLICATE.

    A row is a duplicate if it only repeats an earlier row. A repeated row that breaks another rule is quarantined.
    """
    if not broken:
        return ACCEPTED
    return DUPLICATE if list(broken) == [duplicate_pair.__name__] else QUARANTINED


def _split(pairs: Path, out: Path, reasons: dict[int, list[str]], *, readable: bool) -> Counter[str]:
    """Write accepted.parquet and quarantine.parquet, a few rows at a time; return the number of rows by outcome."""
    outcomes = Counter[str]()
    first = 0
    names = pq.read_schema(pairs).names
    columns = quarantine_schema(names)
    with (
        PairWriter(out / ACCEPTED_FILE, pairs_schema(names)) as accepted,
        PairWriter(out / QUARANTINE_FILE, columns) as quarantine,
    ):
        for batch in read_batches(pairs) if readable else ():
            why = [reasons.get(row, []) for row in range(first, first + batch.num_rows)]
            first += batch.num_rows
            outcomes.update(outcome(rules) for rules in why)
            good = batch.filter(pa.array([not rules for rules in why]))
            bad = pa.table(batch).append_column("reasons", pa.array(why, QUARANTINE_SCHEMA.field("reasons").type))
            accepted.write(good)
            quarantine.write(bad.filter(pa.array([bool(rules) for rules in why])).select(columns.names))
    return outcomes


def _accepted(outcomes: Counter[str], num_rows: int) -> str:
    """Return the verdict on a batch that may be used."""
    parts = [f"{outcomes[ACCEPTED]} of {num_rows} rows accepted"]
    if bad := outcomes[QUARANTINED]:
        parts.append(f"{bad} broke a rule and {'is' if bad == 1 else 'are'} in quarantine")
    if copies := outcomes[DUPLICATE]:
        parts.append(f"{copies} only {'repeats' if copies == 1 else 'repeat'} another row")
    return "; ".join(parts) + "."


def _failure(judged: Sequence[Judged], reasons: dict[int, list[str]], num_rows: int, *, limit: float) -> str:
    """Return one sentence that explains why the batch may not be used; empty when it may."""
    broken = [one for one in judged if one.rule.scope == "table" and one.rule.severity == "critical" and one.failed]
    if broken:
        return " ".join(f"{one.rule.name} failed: {_observed(one)}." for one in broken)
    bad = [rules for rules in reasons.values() if not set(rules) <= SET_ASIDE]
    num_judged = num_rows - len(reasons) + len(bad)
    if len(bad) <= limit * num_judged:
        return ""
    often = Counter(rule for rules in bad for rule in rules).most_common(3)
    return (
        f"{len(bad)} of {num_judged} labelled rows ({len(bad) / num_judged:.1%}) are bad, more than"
        f" max_quarantined_share = {limit}; most often " + ", ".join(f"{rule} ({count})" for rule, count in often) + "."
    )


def _observed(one: Judged) -> str:
    if one.rule.name == columns_present.__name__:
        details: dict[str, Any] = one.result.result.get("details", {}).get("mismatched", {})
        return "missing or of another type: " + ", ".join(details.get("missing", [])) if details else "columns differ"
    return f"found {one.result.result.get('observed_value')}"


def _rule_result(one: Judged, source_rows: Sequence[int]) -> RuleResult:
    return RuleResult(
        rule=one.rule.name,
        severity=one.rule.severity,
        checked=one.checked,
        failed=one.failed,
        example_rows=tuple(source_rows[row] for row in one.rows[:_EXAMPLES]),
    )


def _enter_in_index(store: Store, project: Project, batch: RawBatch, report: ValidationReport) -> None:
    """Keep one entry per shard, the newest report on it, and one for each replay of that very report's quarantine."""
    shard, _, replay = batch.source_file.partition(REPLAY_MARK)
    folder = store.uri("raw/index", project.name, batch.source, quote(shard, safe=""))
    name = f"replay-{replay}.json" if replay else "shard.json"
    if not replay:
        for entry in store.list_uris(folder):
            if not entry.rpartition("/")[2].startswith((name, f"replay-{report.content_digest[:16]}")):
                store.delete(entry)
    store.write_bytes(
        f"{folder}/{quote(name) if folder.startswith('file://') else name}", report.model_dump_json().encode()
    )
