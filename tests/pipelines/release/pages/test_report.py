"""The HTML report is complete, self-contained, escaped and consistent with the decision."""

import base64
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alignment.contracts.coverage import CoverageReport
from alignment.contracts.data import DatasetSnapshot
from alignment.contracts.evaluation import ModelRef
from alignment.statistics.score_grids import ScoreGrids
from pipelines.contracts.release import GateDecision
from pipelines.project.sections import SourceSection
from pipelines.release.gate.checks.score_table import read_grids
from pipelines.release.pages.provenance import Provenance
from pipelines.release.pages.report import _decision_json, render_report

NASTY = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "img", "line", "polyline", "br", "col"}


class Page(HTMLParser):
    """Checks nesting; keeps the text, the attributes and the tags."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)


def decision_of(evaluation: Any, **changes: Any) -> GateDecision:
    decision: GateDecision = evaluation.decided(**changes)
    return decision


def with_slices(evaluation: Any) -> ScoreGrids:
    """The evaluation's scores, every second prompt an animal, the others people."""
    kinds = [("people", "animals")[index % 2] for index in evaluation.columns["prompt_index"]]
    return read_grids({**evaluation.columns, "category": kinds})


def nasty_source() -> SourceSection:
    return SourceSection(name=NASTY, kind=NASTY, uri=NASTY, licence=NASTY)


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evaluation's folder with a contact sheet, one gain and one loss."""
    (tmp_path / "contact_sheet.png").write_bytes(png("red"))
    (tmp_path / "extremes").mkdir()
    lines = []
    for end, difference in (("gain", 1.25), ("loss", -2.5)):
        for role in ("champion", "candidate"):
            (tmp_path / "extremes" / f"{end}_{role}.png").write_bytes(png("blue"))
        lines.append(
            {
                "end": end,
                "prompt_index": 0,
                "prompt": NASTY,
                "differences": {"taste_a": difference},
                "champion_image": f"extremes/{end}_champion.png",
                "candidate_image": f"extremes/{end}_candidate.png",
            }
        )
    (tmp_path / "extremes.json").write_text(json.dumps(lines))
    return tmp_path


def test_every_check_and_digest_is_on_the_page(good_evaluation: Any, folder: Path) -> None:
    decision = decision_of(good_evaluation)
    html = render_report(good_evaluation.report, decision, folder)
    page = Page(html)
    for check in decision.checks:
        assert check.explanation in page.text
        assert check.required in page.text
    for digest in (decision.scores_digest, decision.policy_digest, decision.report_digest):
        assert digest in page.text
    assert html.count(">passed</span>") == sum(not check.note for check in decision.checks)
    assert "failed" not in page.text
    assert "plumbline gate projects/shapes.toml --version 4" in page.text


def test_rules_for_narrow_screens_differ_from_the_others() -> None:
    """A rule that is in both places is a mistake."""
    style = (Path(__file__).parents[4] / "pipelines/pages/style.css").read_text()
    head, _, rest = style.partition("@media screen and (max-width: 760px) {\n")
    narrow, _, tail = rest.partition("\n}\n")
    declared = {rule.strip() for rule in (head + tail).replace("}", "}\n").splitlines()}
    assert not declared & {rule.strip() for rule in narrow.replace("}", "}\n").splitlines() if rule.strip()}
    assert "td.check" not in narrow, "a table of fixed columns breaks words the same at any width"


def test_win_tie_loss_counts_are_drawn(good_evaluation: Any, folder: Path) -> None:
    page = Page(render_report(good_evaluation.report, decision_of(good_evaluation), folder))
    first = good_evaluation.report.comparisons[0]
    assert ("style", f"width: {100 * first.wins / 200:.2f}%") in page.attributes
    assert ("title", f"{first.losses} losses") in page.attributes
    assert f"{100 * first.win_rate:.1f} %" in page.text


def test_the_base_as_champion_is_shown_once_another_champion_beside_it(good_evaluation: Any, folder: Path) -> None:
    decision = decision_of(good_evaluation)
    page = Page(render_report(good_evaluation.report, decision, folder))
    assert page.text.count("vs base model") == 3
    spec = good_evaluation.report.spec.model_copy(update={"champion": ModelRef(kind="lora", weights_digest="c" * 64)})
    page = Page(render_report(good_evaluation.report.model_copy(update={"spec": spec}), decision, folder))
    assert page.text.count("vs champion") == page.text.count("vs base") == 3


@pytest.mark.parametrize(
    ("judges", "guards", "changes", "sentence"),
    [
        (
            {"a": 0.6, "b": 0.6},
            {},
            {},
            "Version 4 of shapes is better than the base model. It may become the champion.",
        ),
        ({"a": -0.6, "b": -0.6}, {}, {}, "Version 4 of shapes should not replace the base model. The base model stays"),
        ({"a": 0.6, "b": 0.0}, {}, {}, "Version 4 of shapes is not clearly better or worse than the base model."),
        (
            {"a": 0.6, "b": 0.6},
            {},
            {"champion_version": 3},
            "Version 4 of shapes could not be compared with the champion, version 3. The champion stays.",
        ),
    ],
)
def test_the_verdict_comes_first_in_a_plain_sentence(
    evaluation_of: Callable[..., Any], folder: Path, judges: Any, guards: Any, changes: Any, sentence: str
) -> None:
    evaluation = evaluation_of(judges, guards)
    decision = decision_of(evaluation, **changes)
    page = Page(render_report(evaluation.report, decision, folder))
    assert sentence in page.text
    assert page.text.index(sentence) < page.text.index("Checks")
    for reason in decision.reasons:
        assert page.text.index(reason) < page.text.index("Checks")


@pytest.mark.parametrize(("mode", "words"), [("dry_run", "no alias moves"), ("off", "The gate is off")])
def test_modes_without_consequence_are_stated(good_evaluation: Any, folder: Path, mode: Any, words: str) -> None:
    decision = decision_of(good_evaluation).model_copy(update={"mode": mode})
    page = Page(render_report(good_evaluation.report, decision, folder))
    assert words in page.text
    assert "It may become" not in page.text


def test_what_comes_from_outside_is_escaped(
    good_evaluation: Any, folder: Path, make_snapshot: Callable[..., DatasetSnapshot]
) -> None:
    report = good_evaluation.report.model_copy(update={"problems": (NASTY,)})
    candidate = good_evaluation.candidate.model_copy(update={"trained_on": (NASTY,), "run_id": NASTY})
    decision = good_evaluation.decided(report=report, candidate=candidate, table_problems=(NASTY,))
    snapshot = make_snapshot(uri=NASTY, sources=(NASTY,), licences=(NASTY,))
    known = Provenance(sources=(nasty_source(),), snapshot=snapshot)
    columns = {**good_evaluation.columns, "category": [NASTY] * len(good_evaluation.columns["role"])}
    html = render_report(report, decision, folder, scores=read_grids(columns), provenance=known)
    page = Page(html)
    assert "<script" not in html
    assert "script" not in page.tags
    assert page.text.count("alert('x')") >= 9


def test_the_page_needs_nothing_from_outside(good_evaluation: Any, folder: Path) -> None:
    html = render_report(good_evaluation.report, decision_of(good_evaluation), folder)
    page = Page(html)
    sources = [value or "" for name, value in page.attributes if name in ("src", "srcset", "xlink:href")]
    assert sorted({source[:24] for source in sources}) == ["data:image/png;base64,iV", "data:image/svg+xml;base6"]
    assert sum(source.startswith("data:image/png") for source in sources) == 5
    places = {value for name, value in page.attributes if name == "id"}
    links = {value for name, value in page.attributes if name == "href"}
    assert links
    assert links <= {f"#{place}" for place in places}
    assert not {"link", "script", "iframe", "object"} & set(page.tags)
    assert not re.search(r"@import|url\(|https?://", html)


def test_drawings_reach_outside_for_nothing(good_evaluation: Any, folder: Path) -> None:
    page = Page(render_report(good_evaluation.report, decision_of(good_evaluation), folder))
    head = "data:image/svg+xml;base64,"
    drawings = [base64.b64decode(v[len(head) :]).decode() for _, v in page.attributes if v and v.startswith(head)]
    assert drawings
    for svg in drawings:
        assert "<script" not in svg
        assert not re.findall(r"(?:href|src)=\"(?!#)[^\"]*\"", svg)


def test_the_same_evidence_gives_the_same_bytes(good_evaluation: Any, folder: Path) -> None:
    decision, scores = decision_of(good_evaluation), with_slices(good_evaluation)
    first = render_report(good_evaluation.report, decision, folder, scores=scores)
    assert render_report(good_evaluation.report, decision, folder, scores=scores) == first


def test_slices_are_shown_where_prompts_name_them(good_evaluation: Any, folder: Path) -> None:
    decision = decision_of(good_evaluation)
    page = Page(render_report(good_evaluation.report, decision, folder, scores=with_slices(good_evaluation)))
    assert ("id", "slices") in page.attributes
    assert "animals 100" in page.text
    without = Page(render_report(good_evaluation.report, decision, folder, scores=good_evaluation.scores))
    assert ("id", "slices") not in without.attributes


def test_the_contact_sheets_prompts_stand_beside_it_as_text(good_evaluation: Any, folder: Path) -> None:
    """The picture cuts long prompts, and its font has no letters for this one."""
    prompts = [NASTY, "\u8d64\u3044\u4e38"]
    decision = decision_of(good_evaluation)
    (folder / "contact_sheet.json").write_text(json.dumps(prompts))
    page = Page(render_report(good_evaluation.report, decision, folder))
    [alt] = [value for name, value in page.attributes if name == "alt" and str(value).startswith("One row per prompt")]
    assert alt == f"One row per prompt, one column per model; 1: {prompts[0]}; 2: {prompts[1]}"
    assert prompts[1] in page.text
    assert ("alt", f"candidate's image of: {NASTY}") in page.attributes
    (folder / "contact_sheet.json").unlink()
    assert prompts[1] not in render_report(good_evaluation.report, decision, folder)


def test_pictures_that_are_not_there_leave_no_gap(good_evaluation: Any, tmp_path: Path) -> None:
    page = Page(render_report(good_evaluation.report, decision_of(good_evaluation), tmp_path))
    assert not [value for _, value in page.attributes if value and value.startswith("data:image/png")]
    assert "Contact sheet" not in page.text
    assert "gained and lost" not in page.text
    assert "Training" not in page.text
    (tmp_path / "extremes.json").write_text("[]")
    assert "gained and lost" not in render_report(good_evaluation.report, decision_of(good_evaluation), tmp_path)


def test_gains_and_losses_keep_their_pictures_and_signs(good_evaluation: Any, folder: Path) -> None:
    page = Page(render_report(good_evaluation.report, decision_of(good_evaluation), folder))
    assert page.text.index("Largest gains") < page.text.index("taste_a +1.25") < page.text.index("Largest losses")
    assert page.text.index("Largest losses") < page.text.index("taste_a -2.5")


def test_an_invalid_report_can_still_be_read(good_evaluation: Any, folder: Path) -> None:
    broken = tuple(
        c.model_copy(update={"win_rate": math.nan, "win_rate_low": math.nan, "mean_difference": math.inf})
        for c in good_evaluation.report.comparisons
    )
    report = good_evaluation.report.model_copy(update={"comparisons": broken, "calibrations": ()})
    decision = decision_of(type(good_evaluation)(**{**vars(good_evaluation), "report": report}))
    html = render_report(report, decision, folder)
    assert decision.verdict == "invalid"
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html).lower()
    Page(html)
    empty = report.model_copy(update={"comparisons": ()})
    assert "Not measured." in render_report(empty, decision, folder)


def test_repeated_sampling_is_shown_and_has_no_say(
    good_evaluation: Any, folder: Path, coverage_report: CoverageReport
) -> None:
    decision = decision_of(good_evaluation)
    without = Page(render_report(good_evaluation.report, decision, folder))
    page = Page(render_report(good_evaluation.report, decision, folder, coverage=coverage_report))
    assert "The best of several images" not in without.text
    assert "80.0 % (40.0 to 96.0)" in page.text
    assert "too few points" in page.text
    assert any(value and value.startswith("data:image/svg+xml;base64,") for _, value in page.attributes)


def test_decision_json_reads_back(good_evaluation: Any) -> None:
    decision = decision_of(good_evaluation)
    assert GateDecision.model_validate_json(_decision_json(decision)) == decision


@pytest.mark.parametrize("name", ["{outside}", "../secret.png", "extremes/link.png"])
def test_a_report_embeds_no_file_from_outside_the_evaluations_folder(
    good_evaluation: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    outside = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    for secret in (outside, folder.parent / "secret.png"):
        secret.write_bytes(b"private key")
    (folder / "extremes" / "link.png").symlink_to(outside)
    lines = json.loads((folder / "extremes.json").read_text())
    lines[0]["candidate_image"] = name.format(outside=outside)
    (folder / "extremes.json").write_text(json.dumps(lines))
    with pytest.raises(ValueError, match="does not stay inside"):
        render_report(good_evaluation.report, decision_of(good_evaluation), folder)
