"""List the files of a source, and choose the split where a folder holds several."""

import re
from collections import defaultdict
from collections.abc import Sequence

from pipelines.contracts.pairs import SourceShard
from pipelines.host import this_host
from pipelines.project.sections import SourceSection
from pipelines.store.folders import normal_uri
from pipelines.store.storage import Store

_NAME = r"(?P<split>(?:train|training|validation|valid|val|dev|test|eval)(?:_[a-z]+)*)"
_FOLDER = re.compile(_NAME)
_FILE = re.compile(rf"(?:metadata[-_])?{_NAME}(?:[-_.]?\d+)*(?:-of-\d+)?(?:-[0-9a-f]{{16}})?\.\w+")


def list_files(source: SourceSection, store: Store, suffixes: Sequence[str]) -> list[str]:
    """Return the URIs of the source's files with these suffixes, of its split, sorted.

    `uri` is a folder, a prefix or one file. ValueError when there is none, or when the folder holds several splits and
    the source names none of them.
    """
    single = store.exists(source.uri)
    found = [source.uri] if single else store.list_uris(source.uri)
    uris = [normal_uri(uri) for uri in found if uri.lower().endswith(tuple(suffixes))]
    if not uris:
        here = "" if source.uri.startswith("s3://") else f" on host {this_host()}"
        raise ValueError(
            f"Source {source.name!r}: no {' or '.join(suffixes)} file under {source.uri}{here}. Check `uri` in the"
            " project file, and that the files exist. Hosts without a common disk read pairs from s3://..."
        )
    return uris if single else _of_split(uris, source)


def shards_of(source: SourceSection, store: Store, uris: Sequence[str]) -> tuple[SourceShard, ...]:
    """Return one shard for each file, with size and version."""
    facts = [(uri, *store.stat(uri)) for uri in uris]
    return tuple(
        SourceShard(source=source.name, uri=uri, num_bytes=num_bytes, fingerprint=fingerprint)
        for uri, num_bytes, fingerprint in facts
    )


def _split_of(path: str) -> str:
    """Return the split that a file's relative path names, by its nearest folder or its name; empty for none."""
    *folders, file = path.split("/")
    named = _FILE.fullmatch(file.lower())
    if named:
        return named["split"]
    inside = [found["split"] for folder in folders if (found := _FOLDER.fullmatch(folder.lower()))]
    return inside[-1] if inside else ""


def _of_split(uris: Sequence[str], source: SourceSection) -> list[str]:
    root = normal_uri(source.uri)
    by_split: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        by_split[_split_of(uri.removeprefix(f"{root}/"))].append(uri)
    names = ", ".join(f"{name or 'without a split'} ({len(found)} files)" for name, found in sorted(by_split.items()))
    if source.split:
        if source.split not in by_split:
            raise ValueError(f"Source {source.name!r} has no split {source.split!r}. Its folder holds: {names}.")
        return by_split[source.split]
    if len(by_split) > 1:
        example = "train" if "train" in by_split else max(by_split)
        raise ValueError(
            f"Source {source.name!r}: {source.uri} holds several splits: {names}. Name one, e.g. split ="
            f' "{example}", so that test pairs are not trained on.'
        )
    return list(uris)
