"""Lists in the layouts of PartiPrompts, GenEval and HPSv2, invented for the test, become the evaluation's format."""

import json
from pathlib import Path

import pytest

from alignment.statistics.prompts import EvalPrompt, read_prompts
from pipelines.intake.prompt_lists import FORMATS, import_prompts
from pipelines.store.storage import sha256_file

PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    'a sign that says "open"\tArtifacts\tWriting & Symbols\tquoted\n'
    "moss\tAbstract\tBasic\t\n"
    "Moss!\tPlants\tBasic\tthe same prompt\n"
    "two  foxes\tAnimals\tQuantity\t\n"
)


@pytest.fixture
def parti(tmp_path: Path) -> Path:
    path = tmp_path / "parti.tsv"
    path.write_text(PARTI)
    return path


def test_partiprompts_keep_their_quotation_marks_and_categories(parti: Path, tmp_path: Path) -> None:
    found = import_prompts(parti, "parti", tmp_path / "sets" / "x.tsv")
    assert read_prompts(Path(found.uri)) == [
        EvalPrompt(0, 'a sign that says "open"', "Artifacts"),
        EvalPrompt(1, "moss", "Abstract"),
        EvalPrompt(2, "two foxes", "Animals"),
    ]
    assert (found.num_prompts, found.num_duplicates) == (3, 1)
    assert found.categories == {"Abstract": 1, "Animals": 1, "Artifacts": 1}
    assert found.prompts_digest == sha256_file(Path(found.uri))
    assert found.source_digest == sha256_file(parti)


def test_another_column_can_make_the_slices(parti: Path, tmp_path: Path) -> None:
    found = import_prompts(parti, "parti", tmp_path / "x.tsv", category="Challenge")
    assert found.categories == {"Basic": 1, "Quantity": 1, "Writing & Symbols": 1}
    with pytest.raises(ValueError, match=r"has no Style; it has Prompt, Category, Challenge, Note"):
        import_prompts(parti, "parti", tmp_path / "y.tsv", category="Style")


def test_geneval_is_sliced_by_its_tag(tmp_path: Path) -> None:
    lines = [
        {"tag": "counting", "include": [{"class": "kite", "count": 2}], "prompt": "two kites"},
        {"tag": "colors", "prompt": "a red kite"},
    ]
    (tmp_path / "meta.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = import_prompts(tmp_path / "meta.jsonl", "geneval", tmp_path / "x.tsv")
    assert [(p.text, p.category) for p in read_prompts(tmp_path / "x.tsv")] == [
        ("two kites", "counting"),
        ("a red kite", "colors"),
    ]
    assert found.format == "geneval"


def test_a_folder_of_styles_is_sliced_by_file_name_and_spread_evenly(tmp_path: Path) -> None:
    (tmp_path / "hps").mkdir()
    for style in ("photo", "anime"):
        (tmp_path / "hps" / f"{style}.json").write_text(json.dumps([f"{style} {number}" for number in range(10)]))
    found = import_prompts(tmp_path / "hps", "hps", tmp_path / "x.tsv", per_category=3)
    assert [p.text for p in read_prompts(tmp_path / "x.tsv")] == [
        *("anime 0", "anime 3", "anime 6"),
        *("photo 0", "photo 3", "photo 6"),
    ]
    assert (found.num_left_out, found.categories) == (14, {"anime": 3, "photo": 3})


def test_a_written_set_imports_to_itself(parti: Path, tmp_path: Path) -> None:
    first = import_prompts(parti, "parti", tmp_path / "x.tsv")
    again = import_prompts(tmp_path / "x.tsv", "tsv", tmp_path / "y.tsv")
    assert again.prompts_digest == first.prompts_digest
    import_prompts(parti, "parti", tmp_path / "x.tsv")
    with pytest.raises(ValueError, match="already contains other prompts"):
        import_prompts(parti, "parti", tmp_path / "x.tsv", category="Challenge")


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("part", "", "Did you mean 'parti'?"),
        ("jsonl", '{"prompt": "a"}\n', "line 1 is not a JSON object with the texts `prompt` and `category`"),
        ("jsonl", "a kite\n", "line 1 is not JSON"),
        ("jsonl", '{"prompt": "a", "category": null}\n', "line 1 is not a JSON object"),
        ("jsonl", "[]\n", "line 1 is not a JSON object"),
        ("tsv", "prompt\tcategory\na\tb\tx\n", "line 2 has more columns"),
        ("parti", "", "it has nothing"),
        ("jsonl", '{"prompt": 3, "category": "x"}\n', "line 1 is not a JSON object"),
        ("tsv", "prompt\tcategory\n \tx\n", "empty prompts at list line 2"),
        ("tsv", "prompt\tcategory\n", "contains no prompts"),
        ("hps", '{"a": 1}', "is not a JSON list"),
    ],
)
def test_faults_are_named_and_nothing_is_written(tmp_path: Path, form: str, content: str, message: str) -> None:
    (tmp_path / "list").write_text(content)
    with pytest.raises(ValueError, match=message):
        import_prompts(tmp_path / "list", form, tmp_path / "x.tsv")
    assert not (tmp_path / "x.tsv").exists()


def test_a_prompt_may_contain_a_line_separator(tmp_path: Path) -> None:
    (tmp_path / "list").write_text('{"prompt": "a\u2028kite", "category": "x"}\n', encoding="utf-8")
    assert import_prompts(tmp_path / "list", "jsonl", tmp_path / "x.tsv").num_prompts == 1
    assert (tmp_path / "x.tsv").read_text() == "prompt\tcategory\na kite\tx\n"


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, parti: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder. Give a file"):
        import_prompts(parti, "parti", tmp_path)
    with pytest.raises(ValueError, match="cannot be written: File exists"):
        import_prompts(parti, "parti", parti / "x.tsv")


def test_every_format_has_its_reader(tmp_path: Path) -> None:
    for form in FORMATS:
        with pytest.raises(ValueError, match="neither a file nor a folder"):
            import_prompts(tmp_path / "none", form, tmp_path / "x.tsv")
