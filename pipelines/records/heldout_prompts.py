"""Prompts that are held out for evaluation."""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from alignment.statistics.normal_text import normal_prompt
from alignment.statistics.prompt_groups import count_groups
from alignment.statistics.prompts import EvalPrompt, parse_prompts
from alignment.statistics.similar_prompts import NearPrompts
from pipelines.project.file import Project
from pipelines.store.storage import Store


@dataclass(frozen=True)
class HeldoutPrompts:
    """Prompts that may not be used in training."""

    digest: str
    """sha256 of the evaluation's prompts file, or of the digests of all files if there are prompt sets too."""
    normal: frozenset[str]
    """Their normal forms."""

    def is_near(self, normal: str) -> bool:
        """Return True when a prompt, given in normal form, is held out in nearly the same words, but not in these."""
        return normal not in self.normal and self._near.is_near(normal)

    def holds(self, prompt: str) -> bool:
        """Return True when a prompt is held out, in any spelling or in nearly the same words."""
        normal = normal_prompt(prompt)
        return normal in self.normal or self._near.is_near(normal)

    @cached_property
    def _near(self) -> NearPrompts:
        return NearPrompts(self.normal)


def heldout_prompts(project: Project, store: Store) -> HeldoutPrompts:
    """Read the prompts of the evaluation and of every prompt set; ValueError for a missing file or no `prompt`."""
    uris = dict.fromkeys([project.evaluation.prompts, *(own.prompts for own in project.prompt_sets)])
    files = {uri: store.read_bytes(uri) for uri in uris}
    digests = [hashlib.sha256(data).hexdigest() for data in files.values()]
    return HeldoutPrompts(
        # Sorted, so that the digest does not depend on which set the evaluation uses.
        digest=digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
        normal=frozenset(
            normal_prompt(prompt) for uri, data in files.items() for prompt in _prompt_column(data, uri) if prompt
        ),
    )


def evaluation_digest(project: Project, store: Store) -> str:
    """Return the sha256 of the evaluation's prompts file."""
    return hashlib.sha256(store.read_bytes(project.evaluation.prompts)).hexdigest()


def evaluation_prompts(project: Project, store: Store) -> list[EvalPrompt]:
    """Read the evaluation's prompts as its job does; ValueError for a file that the job would refuse."""
    uri = project.evaluation.prompts
    return parse_prompts(store.read_bytes(uri), uri)


def check_enough_prompts(project: Project, store: Store) -> int:
    """Count the evaluation's prompts, near-duplicates as one; ValueError when a valid evaluation needs more."""
    prompts, minimum = evaluation_prompts(project, store), project.gate.minimum_prompts
    found = count_groups(prompts)
    if found < minimum and project.gate.mode != "off":
        alike = f" ({len(prompts)} with near-duplicates)" if found < len(prompts) else ""
        raise ValueError(
            f"{project.path}: the evaluation has {found} prompts{alike} in {project.evaluation.prompts}, but"
            f" gate.minimum_prompts is {minimum}, so every verdict would be invalid. Add prompts (`plumbline prompts"
            " import`), or lower gate.minimum_prompts; `plumbline gate simulate` shows what they can detect."
        )
    return found


def _prompt_column(data: bytes, origin: str) -> list[str]:
    """Read the prompts of a tab-separated file, in order; ValueError when the first line has no `prompt`."""
    rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), delimiter="\t", quoting=csv.QUOTE_NONE)
    if "prompt" not in (rows.fieldnames or []):
        raise ValueError(f"{origin}: the first line has no `prompt`. Expected the header `prompt<TAB>category`.")
    return [row["prompt"] or "" for row in rows]


def check_not_heldout(lines: Iterable[str], heldout: HeldoutPrompts, origin: str) -> None:
    """Check training prompts, one a line; ValueError when some are held out or nearly are. Reads them one by one."""
    found = [number for number, line in enumerate(lines, start=1) if heldout.holds(line)]
    if found:
        where = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
        raise ValueError(
            f"{origin} holds {len(found)} prompts of the evaluation (lines {where}), or nearly these. Remove them:"
            " prompts used in training cannot be used to evaluate."
        )
