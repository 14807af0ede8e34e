"""`plumbline judges import`: check the request and run the conversion."""

from typing import Any

from alignment.config import validate
from alignment.conversion.catalogue import ImportRequest, find_import
from pipelines.dispatch.conversions import run_conversion


def import_judge(fields: dict[str, Any], out: str) -> dict[str, Any]:
    """Return the folder, its digest and the source of its weights.

    ValueError for what a person has to fix, RuntimeError when the conversion failed.
    """
    request = validate(ImportRequest, fields, what="judges import")
    find_import(request.kind)
    return run_conversion("alignment.jobs.import_judge", request, {"out": out}, what=f"The import of {request.source}")
