"""The kinds of preference source: a frozen params class each, named by `kind` in projects/NAME.toml."""

from typing import ClassVar, Literal

from alignment.catalogues.lookup import unknown_name
from alignment.contracts.values import Record


class SourceParams(Record):
    """Fields of every kind. `implementation` names a class that is a sources.interface.PairSource."""

    implementation: ClassVar[str]
    labelled_by_people: ClassVar[bool] = True
    """True when people labelled the pairs. Only such pairs are held out to calibrate judges, and only their annotators
    are hashed.
    """


class PickAPic(SourceParams):
    """Pick-a-Pic v2 (yuvalkirstain/pickapic_v2): parquet shards with the encoded images inside."""

    implementation: ClassVar[str] = "pipelines.intake.sources.pick_a_pic:PickAPicSource"

    kind: Literal["pick_a_pic"] = "pick_a_pic"


class SelfGenerated(SourceParams):
    """Pairs drawn by the base model; words of style or safety are added to the chosen image's prompt, as MaPO's authors
    do.
    """

    implementation: ClassVar[str] = "pipelines.intake.sources.self_generated:SelfGeneratedSource"
    labelled_by_people: ClassVar[bool] = False

    kind: Literal["self_generated"] = "self_generated"


SOURCES: tuple[type[SourceParams], ...] = (PickAPic, SelfGenerated)


def find_source(kind: str) -> type[SourceParams]:
    """Return the entry of this kind; ValueError with the nearest known name when there is none."""
    known = {cls.model_fields["kind"].default: cls for cls in SOURCES}
    if kind not in known:
        raise ValueError(unknown_name("source kind", kind, known))
    return known[kind]
