"""Errors about a layout: the kinds that fit, the columns once, and files that are something else."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.intake.sources.catalogue import SOURCES
from pipelines.intake.sources.reading.layouts import (
    LayoutError,
    fitting_kinds,
    layout_error,
    missing_column,
    readable,
    unreadable,
)


def test_every_layout_is_recognised_as_its_kind() -> None:
    for cls in SOURCES:
        for layout in cls.layouts:
            assert cls.model_fields["kind"].default in fitting_kinds([*layout, "more"])
    assert fitting_kinds(["prompt", "image"]) == []


def test_an_error_prints_the_columns_once_and_names_the_kinds() -> None:
    columns = ["data", "annotations", *(f"c{n}" for n in range(100))]
    error = layout_error("a.json", "an HPD file", [missing_column("promt", columns)], columns)
    assert isinstance(error, LayoutError)
    assert str(error).count("annotations") == 1
    assert "c37 and 62 more. Kinds that fit: label_studio. `plumbline sources` lists" in str(error)
    assert missing_column("promt", ["prompt"], "string") == "no column 'promt' (string; did you mean 'prompt'?)"
    assert missing_column("x", []) == "no column 'x'"


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself. Run `git lfs"),
        (b"\n <HTML>", "is a web page, not parquet. Download the file itself"),
        (b"PAR1", "cannot be read as parquet: broken. It is missing, truncated or damaged: fetch it again."),
        (b"", "cannot be read as parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_described_by_its_head(head: bytes, complaint: str, tmp_path: Path) -> None:
    assert complaint in str(unreadable(head, "deep/a.parquet", "parquet", OSError("broken")))
    path = tmp_path / "a"
    path.write_bytes(head)
    with pytest.raises(ValueError, match="deep/a"), readable(path, "deep/a", "parquet"):
        raise pa.ArrowInvalid("broken")
