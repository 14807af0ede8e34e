"""Public data sets of pairs, by the names and addresses that people give them."""

import re
from typing import NamedTuple


class PublicDataSet(NamedTuple):
    """A public data set from which published judges learnt."""

    title: str
    name: str
    """The name that judges know."""
    pattern: str
    """Pattern of its names and addresses."""


_PUBLIC_DATA_SETS = (
    PublicDataSet("Pick-a-Pic", "pick_a_pic_v2", r"pick[_-]?a[_-]?pic"),
    PublicDataSet("HPD", "hpd_v2", r"(?<![a-z])hpd(?![a-z])|hpdv?[23]"),
    PublicDataSet("ImageRewardDB", "image_reward_db", r"image[_-]?reward"),
)


def looks_like_public(name: str) -> PublicDataSet | None:
    """Return the public data set that the name or address of a source looks like; None if it looks like none."""
    return next((own for own in _PUBLIC_DATA_SETS if re.search(own.pattern, name, re.IGNORECASE)), None)
