from pathlib import Path

from alignment.contracts.streaming import WantedPairs, caption_file, image_file, pair_file


def test_files_are_named_by_number() -> None:
    assert pair_file(Path("s"), 12) == Path("s/pairs/0000000012.safetensors")
    assert image_file(Path("s"), 7) == Path("s/images/0000000007.safetensors")
    assert caption_file(Path("s"), 3) == Path("s/captions/0000000003.safetensors")


def test_an_announcement_survives_its_file() -> None:
    wanted = WantedPairs(pairs=(3, 1, 2), now=2)
    assert WantedPairs.model_validate_json(wanted.model_dump_json()) == wanted
