"""Copies and contradictions are those of comparing every row with every other."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.intake.row_uses import row_uses


def rows(seed: int) -> list[dict[str, object]]:
    """Rows of few images, prompts and people, so that comparisons repeat, mirrored and contradicted."""
    random = np.random.default_rng(seed)
    return [
        {
            "prompt": ["A cat", "a  CAT", "a dog"][random.integers(3)],
            "annotator_id": ["", "ada"][random.integers(2)],
            "preference": [0.0, 0.5, 1.0][random.integers(3)],
            "sha256_0": "ab"[random.integers(2)] * 64,
            "sha256_1": "bc"[random.integers(2)] * 64,
        }
        for _ in range(12)
    ]


def test_uses_are_those_of_comparing_all_rows(tmp_path: Path) -> None:
    some_first, some_contradicted = 0, 0
    for seed in range(40):
        given = rows(seed)
        paths = []
        for number, part in enumerate((given[:5], given[5:])):
            paths.append(tmp_path / f"{seed}-{number}.parquet")
            pq.write_table(pa.Table.from_pylist(part), paths[-1])
        names = [
            (
                str(row["prompt"]).lower().split(),
                row["annotator_id"],
                sorted([str(row["sha256_0"]), str(row["sha256_1"])]),
            )
            for row in given
        ]
        winners = [
            None if row["preference"] == 0.5 else row["sha256_0"] if row["preference"] == 1.0 else row["sha256_1"]
            for row in given
        ]
        first = [names.index(name) == place for place, name in enumerate(names)]
        contradicted = [
            len({w for other, w in zip(names, winners, strict=True) if other == name and w is not None}) > 1
            for name in names
        ]
        same = [row["sha256_0"] == row["sha256_1"] for row in given]
        uses = row_uses(paths)
        assert uses.is_first.tolist() == first
        for place, expected in enumerate(contradicted):
            assert uses.is_contradicted[place] == expected or same[place], "identical images are quarantined before"
        some_first += sum(first)
        some_contradicted += sum(contradicted)
    assert 40 < some_first < 40 * 12
    assert some_contradicted > 10


def test_no_rows() -> None:
    assert row_uses([]).is_first.tolist() == []


def test_single_images_are_compared_by_their_image(tmp_path: Path) -> None:
    liked = {"prompt": "a cat", "annotator_id": "ada", "preference": 1.0, "sha256_0": "a" * 64, "sha256_1": None}
    given = [liked, {**liked, "preference": 0.0}, {**liked, "sha256_0": "b" * 64}, {**liked, "annotator_id": ""}]
    given.append({**liked, "annotator_id": "", "prompt": "A CAT"})
    schema = pa.schema([(name, pa.float64() if name == "preference" else pa.string()) for name in liked])
    pq.write_table(pa.Table.from_pylist(given, schema=schema), tmp_path / "a.parquet")
    uses = row_uses([tmp_path / "a.parquet"])
    assert uses.is_contradicted.tolist() == [True, True, False, False, False]
    assert uses.is_first.tolist() == [True, False, True, True, False]
