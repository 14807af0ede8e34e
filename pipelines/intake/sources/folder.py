"""Read image files: comparisons in `w/` and `l/`, and rankings in a folder for each prompt.

    NAME.txt  w/NAME.png  l/NAME.png     the prompt, the preferred image, the other image
    ANY/prompt.txt  ANY/1.png  ANY/2.png a prompt and its images by rank, 1 the best; 2a.png and 2b.png are equal

Each folder that holds `w` and `l`, or rankings, is one shard.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from urllib.parse import unquote

import pyarrow as pa

from alignment.contracts.values import canonical_json
from pipelines.contracts.pairs import SourceFacts, SourceShard
from pipelines.intake.sources.interface import OpenShard
from pipelines.intake.sources.reading.image_files import ImageFiles
from pipelines.intake.sources.reading.record_source import Pair, pair_batches
from pipelines.intake.sources.reading.votes import Vote, ranked_pairs
from pipelines.project.sections import SourceSection
from pipelines.store.folders import join_uri, normal_uri
from pipelines.store.storage import Store

_PROMPT_FILE = "prompt.txt"
_BETTER, _WORSE = "w", "l"
_RANKED = re.compile(r"(\d+)[^/]*\.[^./]+")


class FolderSource:
    """Every image of a shard is in a pair; one without a partner goes to quarantine."""

    def list_shards(self, source: SourceSection, store: Store) -> tuple[SourceShard, ...]:
        """List every folder of comparisons or rankings; ValueError when there is none."""
        found = _shards(source, store)
        return tuple(_shard(source, store, folder, found[folder]) for folder in sorted(found))

    def inspect(self, source: SourceSection, store: Store) -> SourceFacts:
        """Count the pairs by the names of the files."""
        found = _shards(source, store)
        return SourceFacts(
            num_shards=len(found), num_rows=sum(1 for names in found.values() for _ in _named_pairs(names))
        )

    def read_shard(self, shard: OpenShard, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the pairs of one folder in VOTES_SCHEMA, in the order of their names."""
        uri, store = shard.shard.uri, shard.store
        images = ImageFiles(store, uri)
        pairs = _named_pairs(_of_shard(_relative_paths(uri, store)))
        prompts = (replace(pair, prompt=_prompt(uri, store, pair.prompt)) for pair in pairs)
        yield from pair_batches(enumerate(prompts), images, rows)
        images.report(shard.name)


def _shards(source: SourceSection, store: Store) -> dict[str, list[str]]:
    """Return the paths of each shard relative to it, by the path of its folder; ValueError when there is none."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in _relative_paths(source.uri, store):
        *folders, name = path.split("/")
        by_folder["/".join(folders)].append(name)
        if folders:
            by_folder["/".join(folders[:-1])].append(f"{folders[-1]}/{name}")
    found = {folder: _of_shard(paths) for folder, paths in by_folder.items()}
    found = {folder: paths for folder, paths in found.items() if any("/" in path for path in paths)}
    if not found:
        raise ValueError(
            f"Source {source.name!r}: {source.uri} has neither folders `w` and `l` with images, nor rankings: folders"
            f" with {_PROMPT_FILE} and images named by rank, such as 1.png. It holds"
            f" {_kinds_of_files(by_folder)}. Tables are of another kind; `plumbline sources` lists the kinds."
        )
    return found


def _of_shard(paths: Iterable[str]) -> list[str]:
    """Return the paths that belong to a shard: images of comparisons and rankings, and texts of prompts, sorted."""
    near = [path for path in paths if path.count("/") < 2]
    rankings = {path.partition("/")[0] for path in near if path.endswith(f"/{_PROMPT_FILE}")}
    inside = [path for path in near if path.partition("/")[0] in {_BETTER, _WORSE, *rankings} and "/" in path]
    return sorted({*inside, *(path for path in near if "/" not in path and path.endswith(".txt"))})


def _shard(source: SourceSection, store: Store, folder: str, paths: Sequence[str]) -> SourceShard:
    uri = join_uri(source.uri, folder) if folder else normal_uri(source.uri)
    facts = [(path, *store.stat(join_uri(uri, path))) for path in paths]
    return SourceShard(
        source=source.name,
        uri=uri,
        num_bytes=sum(num_bytes for _, num_bytes, _ in facts),
        fingerprint=hashlib.sha256(canonical_json(facts).encode("utf-8", "surrogatepass")).hexdigest(),
    )


def _named_pairs(paths: Sequence[str]) -> Iterator[Pair]:
    """Yield the pairs of a shard; the prompt is the path of its text, empty where there is none."""
    yield from _comparisons(paths)
    rankings: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        folder, _, name = path.partition("/")
        if name and folder not in (_BETTER, _WORSE) and not name.endswith(".txt"):
            rankings[folder].append(path)
    for folder in sorted(rankings):
        yield from _ranking(folder, rankings[folder])


def _comparisons(paths: Sequence[str]) -> Iterator[Pair]:
    sides: dict[str, dict[str, list[str]]] = {_BETTER: defaultdict(list), _WORSE: defaultdict(list)}
    for path in paths:
        folder, _, name = path.partition("/")
        if folder in sides and name and not name.endswith(".txt"):
            sides[folder][name.rpartition(".")[0]].append(path)
    known = set(paths)
    for stem in sorted({*sides[_BETTER], *sides[_WORSE]}):
        texts = (f"{stem}.txt", f"{_BETTER}/{stem}.txt", f"{_WORSE}/{stem}.txt")
        prompt = next((text for text in texts if text in known), "")
        for better, worse in zip_longest(sides[_BETTER].get(stem, ()), sides[_WORSE].get(stem, ())):
            yield Pair(prompt, better, worse, Vote(1.0))


def _ranking(folder: str, paths: Sequence[str]) -> Iterator[Pair]:
    """Yield the pairs of a ranking; an image without a rank makes its labels illegal."""
    prompt = f"{folder}/{_PROMPT_FILE}"
    found = [_RANKED.fullmatch(path.partition("/")[2]) for path in paths]
    ranks = [int(rank[1]) if rank else None for rank in found]
    if len(paths) == 1:
        yield Pair(prompt, paths[0], None, Vote(1.0))
    for one in ranked_pairs(ranks):
        yield Pair(prompt, paths[one.first], paths[one.second], one.vote, weight=one.weight)


def _prompt(uri: str, store: Store, path: str) -> str | None:
    """Return the text of a prompt; None where there is no file or it is not UTF-8."""
    if not path:
        return None
    try:
        return store.read_bytes(join_uri(uri, path)).decode("utf-8-sig").strip()
    except ValueError:
        return None


def _relative_paths(uri: str, store: Store) -> list[str]:
    root = f"{normal_uri(uri)}/"
    paths = [found.removeprefix(root) for found in store.list_uris(uri)]
    return [unquote(path) for path in paths] if root.startswith("file://") else paths


def _kinds_of_files(by_folder: dict[str, list[str]]) -> str:
    names = {path.rpartition(".")[2] for paths in by_folder.values() for path in paths if "." in path}
    return f"files ending in {', '.join(sorted(names)[:8])}" if names else "no files"
