"""Sources that look like a public data set."""

import pytest

from pipelines.project.public_data_sets import looks_like_public


@pytest.mark.parametrize(
    ("name", "data_set"),
    [
        ("prefs s3://bucket/pickapic_v2/train", "pick_a_pic_v2"),
        ("Pick-A-Pic /data/x", "pick_a_pic_v2"),
        ("prefs /data/HPDv2", "hpd_v2"),
        ("prefs /data/hpd/x", "hpd_v2"),
        ("image_reward /data/x", "image_reward_db"),
        ("shapes_pairs /data/shapes", None),
        ("the_phd /data/pairs", None),
    ],
)
def test_names_and_addresses_of_public_data_sets_are_known(name: str, data_set: str | None) -> None:
    found = looks_like_public(name)
    assert (found.name if found else None) == data_set
