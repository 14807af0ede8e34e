"""Captions by image, the three variants, and the snapshot that stores them."""

import io
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from alignment.contracts.captions import Captioner, GeneratedCaptions, HybridCaptions, Perturbation, PerturbedPrompts
from alignment.data.pairs import TrainingPairs
from alignment.files.images import ground_metadata
from alignment.labelling.captioned_pairs import CARRIED_OVER, ImageCaptions, pair_texts, snapshot_files, write_captioned
from alignment.labelling.perturbation import perturbed, vocabulary

CAPTIONER = Captioner(weights_digest="0" * 64)
MEDIUM = Perturbation(level="medium", seed=3)


def corner(image: Image.Image) -> str:
    """Fake captioner: it names the colour in the corner that the pictures' dot never reaches."""
    return f"colour {image.getpixel((63, 63))}"


class Captioning:
    """Records how many images each call received."""

    def __init__(self, *, silent: bool = False) -> None:
        self.batches: list[int] = []
        self.silent = silent

    def __call__(self, images: list[Image.Image]) -> list[str]:
        self.batches.append(len(images))
        return ["  " if self.silent else corner(image) for image in images]


@pytest.fixture
def pairs(tiny_snapshot_dir: Path) -> TrainingPairs:
    return TrainingPairs(tiny_snapshot_dir)


def corners(pairs: TrainingPairs) -> list[tuple[str, str]]:
    def of(content: bytes) -> str:
        return corner(Image.open(io.BytesIO(content)).convert("RGB"))

    return [(of(pair.image_chosen), of(pair.image_rejected)) for pair in map(pairs.pair, range(len(pairs)))]


def distinct_images(pairs: TrainingPairs) -> int:
    both = [pairs.pair(index) for index in range(len(pairs))]
    return len({image for pair in both for image in (pair.image_chosen, pair.image_rejected)})


def test_each_distinct_image_is_captioned_once_and_both_sides_get_their_own(
    pairs: TrainingPairs, tmp_path: Path
) -> None:
    caption = Captioning()
    images = ImageCaptions(pairs, tmp_path, shard_images=20)
    images.write(caption, 0, 1, lambda: None)
    assert sum(caption.batches) == images.num_images == distinct_images(pairs) < 2 * len(pairs)
    assert caption.batches[:4] == [8, 8, 4, 8], "pieces never cross a shard"
    assert images.texts() == corners(pairs)


def test_ranks_divide_the_shards_and_finished_ones_are_kept(pairs: TrainingPairs, tmp_path: Path) -> None:
    first, second = Captioning(), Captioning()
    images = ImageCaptions(pairs, tmp_path, shard_images=8)
    done: list[int] = []
    images.write(first, 1, 2, lambda: done.append(images.num_finished()))
    assert done == list(range(1, len(images.shards) // 2 + 1))
    ImageCaptions(pairs, tmp_path, shard_images=8).write(second, 0, 1, lambda: None)
    assert sum(first.batches) + sum(second.batches) == images.num_images
    assert images.texts() == corners(pairs)


def test_an_empty_caption_stops_with_the_first_such_image_and_leaves_no_shard(
    pairs: TrainingPairs, tmp_path: Path
) -> None:
    images = ImageCaptions(pairs, tmp_path, shard_images=20)
    with pytest.raises(ValueError, match=rf"empty caption for 20 of 20 images, first image_chosen of pair {0:064x}"):
        images.write(Captioning(silent=True), 0, 1, lambda: None)
    assert images.num_finished() == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_dcpo_c_uses_the_captions_unchanged(pairs: TrainingPairs) -> None:
    assert pair_texts(GeneratedCaptions(captioner=CAPTIONER), pairs, corners(pairs)) == corners(pairs)


def test_dcpo_p_perturbs_the_prompt_only_for_the_rejected_image(pairs: TrainingPairs) -> None:
    texts = pair_texts(PerturbedPrompts(perturbation=MEDIUM), pairs, [])
    assert [chosen for chosen, _ in texts] == pairs.prompts
    words = vocabulary(pairs.prompts)
    for (chosen, rejected), pair_id in zip(texts, pairs.pair_ids, strict=True):
        assert rejected != chosen
        assert rejected == perturbed(chosen, words, perturbation=MEDIUM, pair_id=pair_id)
        assert set(rejected.split()) <= {"a", "plain", "picture", "red", "green", "blue", "white"}


def test_dcpo_h_perturbs_the_caption_of_the_rejected_image(pairs: TrainingPairs) -> None:
    said = corners(pairs)
    texts = pair_texts(HybridCaptions(captioner=CAPTIONER, perturbation=MEDIUM), pairs, said)
    words = vocabulary(text for both in said for text in both)
    assert [chosen for chosen, _ in texts] == [chosen for chosen, _ in said]
    expected = [
        perturbed(rejected, words, perturbation=MEDIUM, pair_id=pair_id)
        for (_, rejected), pair_id in zip(said, pairs.pair_ids, strict=True)
    ]
    assert [rejected for _, rejected in texts] == expected
    assert all(after != before for (_, before), (_, after) in zip(said, texts, strict=True))


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "train.parquet").to_pylist()
    return found


def test_the_new_snapshot_differs_only_in_captions_of_pairs_that_are_not_ties(
    pairs: TrainingPairs, tiny_snapshot_dir: Path, tmp_path: Path
) -> None:
    texts = [(f"c{number}", f"r{number}") for number in range(len(pairs))]
    write_captioned(tiny_snapshot_dir, tmp_path, texts)
    captioned = iter(texts)
    for before, after in zip(rows(tiny_snapshot_dir), rows(tmp_path), strict=True):
        if not before["is_tie"]:
            before["caption_chosen"], before["caption_rejected"] = next(captioned)
        assert after == before
    assert TrainingPairs(tmp_path).captions == texts
    assert TrainingPairs(tmp_path).num_captioned == len(pairs)
    for name in CARRIED_OVER:
        assert (tmp_path / name).read_bytes() == (tiny_snapshot_dir / name).read_bytes()
    assert sorted(path.name for path in snapshot_files(tmp_path)) == sorted([*CARRIED_OVER, "train.parquet"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*CARRIED_OVER, "train.parquet"])


def test_row_groups_are_kept_and_the_same_texts_give_the_same_bytes(tiny_snapshot_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    table = pq.read_table(tiny_snapshot_dir / "train.parquet")
    pq.write_table(table, source / "train.parquet", row_group_size=7)
    for name in CARRIED_OVER:
        (source / name).write_bytes(b"whatever it is")
    texts = [(f"c{number}", f"r{number}") for number in range(24)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_captioned(source, tmp_path / name, texts)
    one = tmp_path / "one" / "train.parquet"
    assert one.read_bytes() == (tmp_path / "two" / "train.parquet").read_bytes()
    assert pq.ParquetFile(one).num_row_groups == 5
    assert TrainingPairs(tmp_path / "one").captions == texts


def test_the_ground_of_transparent_parts_is_kept(tiny_snapshot_dir: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(tiny_snapshot_dir, source)
    out.mkdir()
    table = pq.read_table(source / "train.parquet").replace_schema_metadata(ground_metadata((1, 2, 3)))
    pq.write_table(table, source / "train.parquet")
    write_captioned(source, out, [("c", "r")] * len(TrainingPairs(source)))
    assert TrainingPairs(out).ground == (1, 2, 3)
