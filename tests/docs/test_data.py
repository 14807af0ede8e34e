"""docs/data.md: each kind has a section, and each example loads as a part of a project file."""

import re
import tomllib
from pathlib import Path

import pytest

from pipelines.intake.sources.catalogue import SOURCES
from pipelines.project.file import load_project
from pipelines.project.sections import SELF_GENERATED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/data.md").read_text()
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
SOURCE = '[[sources]]\nname = "s"\nkind = "pick_a_pic"\nuri = "pairs"\nlicence = "CC0-1.0"\n'
REST = """
name = "mine"
[base]
uri = "base"
licence = "Apache-2.0"
backbone = { name = "stable_diffusion", resolution = 64 }
[[train]]
recipe = "diffusion_dpo_shapes"
[evaluation]
prompts = "prompts.tsv"
seeds = [0]
sampler = { steps = 2 }
[[evaluation.judges]]
name = "judge"
uri = "judge"
scorer = { kind = "clip_preference" }
[gate]
required_judges = 1
"""


def heading(example: str) -> str:
    return next((line for line in example.splitlines() if line.startswith("kind")), example.splitlines()[0])


@pytest.mark.parametrize("example", EXAMPLES, ids=heading)
def test_an_example_is_a_part_of_a_project_file(example: str, tmp_path: Path) -> None:
    name = next(iter(tomllib.loads(example)))
    path = tmp_path / "mine.toml"
    path.write_text(REST + (example if name == "sources" else SOURCE + example))
    project = load_project(path)
    stated = tomllib.loads(example)[name]
    if name == "sources":
        assert [source.kind for source in project.sources] == [own["kind"] for own in stated]
    else:
        assert project.snapshot.labels == stated["labels"]


def test_every_kind_is_on_the_page() -> None:
    kinds = {str(cls.model_fields["kind"].default) for cls in SOURCES}
    assert {re.findall(r'kind = "(\w+)"', example)[0] for example in EXAMPLES if "kind" in example} == kinds - {
        SELF_GENERATED
    }
    assert all(f"`{kind}`" in PAGE for kind in kinds)


def test_a_kind_takes_about_ten_lines() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:-1]
    prose = {part.splitlines()[0]: re.sub(r"```.*?```", "", part, flags=re.DOTALL) for part in sections}
    assert {name: len(text.strip().splitlines()) for name, text in prose.items() if len(text.splitlines()) > 25} == {}
