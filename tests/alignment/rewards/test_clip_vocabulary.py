"""The published tokenizer, compared with numbers in published configurations."""

from alignment.rewards.clip_vocabulary import _byte_characters, clip_tokenizer


def test_known_entries_have_their_published_numbers() -> None:
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("A  Photo of\na CAT").input_ids == tokenizer("a photo of a cat").input_ids


def test_long_texts_keep_the_end_token() -> None:
    ids = clip_tokenizer()("lantern " * 200, truncation=True).input_ids
    assert len(ids) == 77
    assert (ids[0], ids[-1]) == (49406, 49407)


def test_every_byte_has_a_character() -> None:
    characters = _byte_characters()
    assert len(set(characters)) == 256
    assert characters[0] == "!"
    tokenizer = clip_tokenizer()
    assert tokenizer.decode(tokenizer("São 日本").input_ids[1:-1]).strip() == "são 日本"
