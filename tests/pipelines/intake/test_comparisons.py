from pipelines.intake.comparisons import comparison_key


def key(one: str = "a", other: str = "b", prompt: str = "p", who: str = "x") -> bytes:
    return comparison_key(one, other, normal=prompt, annotator_id=who)


def test_the_order_of_the_images_does_not_count_and_everything_else_does() -> None:
    assert key() == key("b", "a")
    others = [
        key("a", "c"),
        key(prompt="q"),
        key(who="y"),
        key(prompt="x", who="p"),
        key("\udc80"),
        key(prompt="\ud800"),
    ]
    assert len({key(), *others}) == 7


def test_a_row_of_one_image_has_a_separate_key() -> None:
    single = comparison_key("a", None, normal="p", annotator_id="x")
    assert single not in (key(), key("a", "a"), key("a", "x"))
    assert single == comparison_key("a", None, normal="p", annotator_id="x")
    assert single != comparison_key("b", None, normal="p", annotator_id="x")
