"""Columns of any Arrow type as plain ones: dictionaries, views, structs of bytes, text that is not UTF-8.

Arrow refuses a whole batch for one text that is not UTF-8; here only that value becomes null.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def plain_array(column: pa.Array) -> pa.Array:
    """Return a column without dictionary and views; the values of a struct {bytes, path} are its bytes."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        # Decoding checks no text, so one that is not UTF-8 stays in its row; it does not check the indices either.
        indices = column.indices.drop_null().to_numpy()
        if indices.size and not 0 <= indices.min() <= indices.max() < len(column.dictionary):
            raise pa.ArrowInvalid("an index is outside its dictionary")
        column = column.dictionary_decode()
    if column.type in _VIEWS:
        column = column.cast(_VIEWS[column.type], safe=False)
    if _is_image_struct(column.type):
        # flatten() passes a null struct on to its fields.
        column = plain_array(column.flatten()[column.type.get_field_index("bytes")])
    return column


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of `plain_array` of a column of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    kind = _VIEWS.get(kind, kind)
    return plain_type(kind.field("bytes").type) if _is_image_struct(kind) else kind


def _is_image_struct(kind: pa.DataType) -> bool:
    """Return True for a struct with a field `bytes`, in which the Hugging Face libraries store an image."""
    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def text_array(column: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Return a text column as pa.string() with null for values that are not UTF-8, and a mask of these values.

    Numbers become text; one without a fraction has no decimal point, so 12 and 12.0 are one person.
    """
    column = plain_array(column)
    if pa.types.is_floating(column.type):
        return pa.array([_number_text(value) for value in column.to_pylist()], pa.string()), _none(column)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column.cast(pa.string()), _none(column)
    try:
        column.validate(full=True)
        return column.cast(pa.string()), _none(column)
    except pa.ArrowInvalid:
        raw = text_bytes(column)
    texts = [_decoded(value) for value in raw]
    bad = [value is not None and text is None for value, text in zip(raw, texts, strict=True)]
    return pa.array(texts, pa.string()), np.asarray(bad, dtype=bool)


def text_bytes(column: pa.Array) -> list[bytes | None]:
    """Return the bytes of a text column; ArrowInvalid when it is damaged."""
    column = plain_array(column)
    binary = column.view(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
    binary.validate(full=True)
    values: list[bytes | None] = binary.to_pylist()
    return values


def batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch as dicts; a text that is not UTF-8 is None."""
    columns = [_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True) if columns else ():
        yield dict(zip(batch.schema.names, values, strict=True))


def _values(column: pa.Array) -> list[Any]:
    kind = column.type
    if not _is_image_struct(kind):
        column = plain_array(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column, _ = text_array(column)
    try:
        values: list[Any] = column.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError):
        values = [_value(item) for item in column]
    return values


def _value(item: Any) -> Any:
    """Return a nested value or a time as Python; None where Python cannot represent it."""
    try:
        return item.as_py()
    except (UnicodeDecodeError, ValueError, OverflowError):
        return None


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _number_text(value: float | None) -> str | None:
    if value is None or math.isnan(value):
        return None
    return str(int(value)) if value.is_integer() else repr(value)


def _none(column: pa.Array) -> NDArray[np.bool_]:
    return np.zeros(len(column), dtype=bool)
