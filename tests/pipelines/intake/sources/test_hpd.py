"""HPDv2 and HPDv3, from small files of their layouts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Read = Callable[..., list[dict[str, Any]]]
Picture = Callable[..., bytes]


def test_a_comparison_of_version_2_names_images_in_the_folder_of_its_split(
    read: Read, picture: Picture, tmp_path: Path
) -> None:
    left, right = picture("hpd/train/a.jpg", 0), picture("hpd/train/b.jpg", 1)
    row = {"prompt": "a fox", "image_path": ["a.jpg", "b.jpg"], "human_preference": [0, 1], "user_hash": "u1"}
    broken = {**row, "human_preference": [1, 1, 0]}
    (tmp_path / "hpd/train.json").write_text(json.dumps([row, broken, {**row, "image_path": ["a.jpg"]}]))
    found = read("hpd", tmp_path / "hpd")
    assert [one["has_label"] for one in found] == [True, True, True]
    assert (found[0]["image_0"], found[0]["image_1"]) == (left, right)
    assert (found[0]["preference"], found[0]["num_votes"], found[0]["user_id"]) == (0.0, 1, "u1")
    assert [found[n]["label_0"] for n in (1, 2)] == [None, None], "rows that are wrong are read, without a legal label"
    assert [one["source_row"] for one in found] == [0, 1, 2]


def test_a_ranking_becomes_pairs_with_the_share_of_the_people_that_agree(
    read: Read, picture: Picture, tmp_path: Path
) -> None:
    images = [picture(f"hpd/{n}.jpg", n) for n in range(3)]
    people = [{"rank": [1, 2, 3], "user_hash": "a"}, {"rank": [2, 1, 3], "user_hash": "b"}]
    row = {"prompt": "a fox", "image_path": ["0.jpg", "1.jpg", "2.jpg"], "rank": [1, 2, 3], "raw_annotations": people}
    (tmp_path / "hpd/test.json").write_text(json.dumps([row, {**row, "raw_annotations": [], "rank": [2, 1, 1]}]))
    found = read("hpd", tmp_path / "hpd/test.json")
    assert [(one["image_0"], one["image_1"]) for one in found[:3]] == [
        (images[0], images[1]),
        (images[0], images[2]),
        (images[1], images[2]),
    ]
    assert [(one["preference"], one["num_votes"]) for one in found[:3]] == [(0.5, 2), (1.0, 2), (1.0, 2)]
    assert [one["preference"] for one in found[3:]] == [0.0, 0.0, 0.5], "rank 1 is the best"
    assert sum(one["weight"] for one in found[:3]) == pytest.approx(2)
    assert [one["source_row"] for one in found] == [0, 0, 0, 1, 1, 1]


def test_version_3_prefers_path1_with_the_share_of_its_votes(read: Read, picture: Picture, tmp_path: Path) -> None:
    picture("hpd/a.png", 0)
    row = {"prompt": "a fox", "path1": "a.png", "path2": "b.png", "model1": "flux", "model2": "kolors"}
    rows = [{**row, "choice_dist": dist} for dist in ([12, 3], [3, 12], None, [1], ["x", 2])]
    (tmp_path / "hpd/train.json").write_text(json.dumps(rows))
    found = read("hpd", tmp_path / "hpd")
    assert [(one["label_0"], one["num_votes"]) for one in found] == [
        (0.8, 15), (0.8, 15), (1.0, 1), (None, None), (None, None)
    ]  # fmt: skip
    assert (found[0]["generator_0"], found[0]["generator_1"]) == ("flux", "kolors")
    assert found[0]["image_1"] is None, "b.png is not there"


def test_another_layout_is_named_with_the_kinds_that_fit(read: Read, tmp_path: Path) -> None:
    row = {"prompt": "x", "left_image": "a", "right_image": "b", "vote_type": "leftvote", "image_path": []}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"rows\.jsonl is not an HPD file: no column 'human_preference'") as error:
        read("hpd", tmp_path)
    assert "Its columns: prompt, left_image, right_image, vote_type, image_path." in str(error.value)
    assert "Kinds that fit: arena. `plumbline sources` lists the kinds" in str(error.value)
