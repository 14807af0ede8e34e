"""Render the Great Expectations Data Docs of a batch as one self-contained page.

The page as Great Expectations renders it loads scripts, styles and logos from a dozen hosts and carries random ids and
clock times. Ours opens without a network, sends no request when it is opened, and is identical for identical results.
"""

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.intake.rule_runs import Judged

PAGE_FILE = "index.html"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 0; color: #1d2530; background: #f6f7f9; }
body > .container-fluid, body > h1, body > .verdict { max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 0; }
.col-lg-2 { display: none; }
h1 { font-size: 1.5rem; } h5 { font-size: 1.05rem; margin: 0; } h6 { margin: .4rem 0; }
.ge-section { background: #fff; border: 1px solid #dfe3e8; border-radius: 6px; margin: 0 0 1rem; padding: .8rem 1rem; }
.ge-section .ge-section { border: 0; padding: 0; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; }
td, th { text-align: left; vertical-align: top; padding: .35rem .6rem; border-top: 1px solid #e6e9ee; }
thead[hidden] { display: none; }
th { font-weight: 600; border-top: 0; }
.text-success::before, .text-danger::before, .text-warning::before { font-style: normal; font-weight: 700; }
.text-success::before { content: "pass"; color: #11713a; }
.text-danger::before, .text-warning::before { content: "fail"; color: #b3261e; }
.badge { background: #e8ebf0; border-radius: 4px; padding: 0 .35rem; font-size: .9em; }
.verdict { font-weight: 600; }
.quarantine img { display: block; max-width: 96px; max-height: 96px; }
a { color: inherit; text-decoration: none; }
"""
_DROPPED = (
    r"<script\b.*?</script>",
    r"<link\b[^>]*>",
    r"<style>.*?</style>",
    r"<nav class=\"navbar.*?</nav>\s*</div>\s*</nav>",
    r"<footer\b.*?</footer>",
    r"<title>.*?</title>",
    # Suite, asset and status "Failed" as soon as one row broke one rule: our verdict is about the batch.
    r"<div id=\"section-1-content-block-1-subheader\"\s*>.*?</div>",
)
_RANDOM_IDS = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


def data_docs_page(judged: "Sequence[Judged]", *, title: str, verdict: str, quarantined: str = "") -> str:
    """Return one HTML page with the result of every rule, headed by `title` and `verdict`.

    `quarantined` is the HTML of the quarantined rows, shown below the verdict.
    """
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    succeeded = sum(1 for one in judged if one.result.success)
    outcome = ExpectationSuiteValidationResult(
        success=succeeded == len(judged),
        results=[one.result for one in judged],
        suite_name="pairs",
        statistics={
            "evaluated_expectations": len(judged),
            "successful_expectations": succeeded,
            "unsuccessful_expectations": len(judged) - succeeded,
            "success_percent": 100.0 * succeeded / max(len(judged), 1),
        },
        meta={},
    )
    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer(run_info_at_end=True).render(outcome))
    return _self_contained(page, title=title, verdict=verdict, quarantined=quarantined)


def _self_contained(page: str, *, title: str, verdict: str, quarantined: str) -> str:
    for pattern in _DROPPED:
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    head = f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
    heading = f'<h1>{html.escape(title)}</h1><p class="verdict">{html.escape(verdict)}</p>'
    page = _RANDOM_IDS.sub("", page).replace("</head>", head, 1)
    first = '<div class="container-fluid pt-4'
    return page.replace(first, f"{heading}{quarantined}{first}", 1)
