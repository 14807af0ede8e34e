"""Columns of any Arrow type as plain ones."""

import pyarrow as pa
import pytest

from pipelines.intake.sources.reading.texts import _is_image_struct, batch_rows, plain_array, plain_type, text_array

BAD = pa.array([b"ok", b"\xff", None], pa.binary())


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_that_is_not_utf8_is_null_and_marked(kind: pa.DataType) -> None:
    raw = BAD.cast(pa.large_binary()).view(kind) if kind == pa.large_string() else BAD.view(kind)
    texts, bad = text_array(raw)
    assert (texts.to_pylist(), bad.tolist()) == (["ok", None, None], [False, True, False])
    encoded = pa.DictionaryArray.from_arrays(pa.array([1, 0, None]), raw)
    assert text_array(encoded)[0].to_pylist() == [None, "ok", None]


def test_numbers_become_text_without_a_needless_fraction() -> None:
    assert text_array(pa.array([12.0, 1.5, None, float("nan")]))[0].to_pylist() == ["12", "1.5", None, None]
    assert text_array(pa.array([12, None]))[0].to_pylist() == ["12", None]
    assert text_array(pa.nulls(2))[0].to_pylist() == [None, None]


def test_views_dictionaries_and_structs_are_unpacked() -> None:
    struct = pa.array([{"bytes": b"x", "path": "p"}, None, {"bytes": None, "path": "q"}])
    assert _is_image_struct(struct.type)
    assert plain_array(struct).to_pylist() == [b"x", None, None]
    for array in (pa.array(["a"], pa.string_view()), pa.array([b"a"], pa.binary_view()), struct):
        assert plain_array(array).type == plain_type(array.type)
    assert plain_type(pa.dictionary(pa.int8(), pa.string())) == pa.string()


def test_an_index_outside_its_dictionary_is_refused() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 7]), pa.array(["a"]), safe=False)
    with pytest.raises(pa.ArrowInvalid, match="outside its dictionary"):
        plain_array(array)


def test_rows_of_a_batch_are_plain_values() -> None:
    batch = pa.record_batch({"text": BAD.view(pa.string()), "image": pa.array([{"bytes": b"x"}, None, None])})
    assert list(batch_rows(batch)) == [
        {"text": "ok", "image": {"bytes": b"x"}},
        {"text": None, "image": None},
        {"text": None, "image": None},
    ]
