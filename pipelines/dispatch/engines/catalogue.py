"""The engines: a frozen params class each."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from alignment.catalogues.lookup import resolve, unknown_name
from alignment.contracts.values import Record
from pipelines.dispatch.engines.interface import Engine
from pipelines.settings import Settings


class EngineParams(Record):
    """Fields of every engine. `implementation` is imported when the engine is used."""

    implementation: ClassVar[str]


class Local(EngineParams):
    """This host: one detached supervisor per job, which runs `accelerate launch`."""

    implementation: ClassVar[str] = "pipelines.dispatch.engines.local:LocalEngine"

    name: Literal["local"] = "local"
    grace_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Time between SIGTERM and SIGKILL when a job is cancelled, preempted or out of time."""


ENGINES: tuple[type[EngineParams], ...] = (Local,)


def open_engine(name: str, settings: Settings) -> Engine:
    """Return the engine of a placement; ValueError lists the known ones."""
    by_name = {cls.model_fields["name"].default: cls for cls in ENGINES}
    if name not in by_name:
        raise ValueError(unknown_name("engine", name, by_name))
    params = by_name[name]()
    engine: Engine = resolve(params.implementation)(settings, params)
    return engine
