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


class Ray(EngineParams):
    """A Ray cluster at PLUMBLINE_RAY_ADDRESS: a job on its nodes, which share only the object store."""

    implementation: ClassVar[str] = "pipelines.dispatch.engines.ray:RayEngine"

    name: Literal["ray"] = "ray"
    grace_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Time between SIGTERM and SIGKILL when a job is cancelled, preempted or out of time."""
    resize_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Time between two looks for nodes on which a job with `min_processes` could grow."""
    silence_seconds: Annotated[float, Field(gt=0)] = 120.0
    """A job whose cluster does not answer is lost when its driver has written nothing to the store for this long."""


ENGINES: tuple[type[EngineParams], ...] = (Local, Ray)


def open_engine(name: str, settings: Settings) -> Engine:
    """Return the engine of a placement; ValueError lists the known ones."""
    by_name = {cls.model_fields["name"].default: cls for cls in ENGINES}
    if name not in by_name:
        raise ValueError(unknown_name("engine", name, by_name))
    params = by_name[name]()
    engine: Engine = resolve(params.implementation)(settings, params)
    return engine
