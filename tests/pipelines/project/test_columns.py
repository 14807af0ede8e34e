"""The map of columns of a table."""

from pipelines.project.columns import ColumnsSection


def test_the_columns_that_a_file_must_have() -> None:
    columns = ColumnsSection(prompt="text", image_0="a", image_1="b", choice="c", choice_0="left", annotator="who")
    assert columns.named() == ("text", "a", "b", "c", "who")
    assert ColumnsSection(chosen="a", rejected="b").named() == ("prompt", "a", "b")


def test_the_columns_of_single_images() -> None:
    assert ColumnsSection(prompt="text", image="a", liked="b", annotator="who").named() == ("text", "a", "b", "who")
