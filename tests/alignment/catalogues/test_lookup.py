"""Name resolution, and the error text for unknown names."""

import pytest

from alignment.catalogues.lookup import resolve, unknown_name


def test_a_name_resolves_to_the_object_itself() -> None:
    assert resolve("alignment.catalogues.lookup:unknown_name") is unknown_name
    with pytest.raises(AttributeError, match="nothing_here"):
        resolve("alignment.catalogues.lookup:nothing_here")


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("mapp", ("sft", "mapo"), "Unknown objective 'mapp'. Did you mean 'mapo'? Known: mapo, sft."),
        ("zzzz", ("sft", "mapo"), "Unknown objective 'zzzz'. Known: mapo, sft."),
        ("zzzz", (), "Unknown objective 'zzzz'. Known: none."),
    ],
)
def test_an_unknown_name_lists_the_nearest_and_all_known_names(name: str, known: tuple[str, ...], message: str) -> None:
    assert unknown_name("objective", name, known) == message
