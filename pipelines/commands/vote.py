"""`plumbline vote`: compare images of two models, blind, on a page in your browser."""

import sys
from typing import Annotated

import typer

from pipelines.commands.answers import DONE, show
from pipelines.commands.arguments import AsJson, Project

PORT = 8777
PAIRS = 100


def vote(
    project: Project,
    *,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Vote to train: draw and show images of these prompts, which must not be held out. Tab separated,"
            " prompt and category; `plumbline prompts import` writes it.",
            show_default="vote to judge: the images of the last gate decision",
        ),
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Your name in the table of votes.", show_default="this user")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, metavar="N", help="Number of pairs to show at most.")] = PAIRS,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port of the page; 0 takes a free one.")
    ] = PORT,
    source: Annotated[
        str, typer.Option(metavar="NAME", help="Feedback source that gets the votes.", show_default="the only one")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Open a page on which you compare images of two models without knowing which model drew which.

    Without --prompts you vote on images of the last gate decision, drawn by the candidate and the champion. Their
    prompts are held out: the votes never train a model. `plumbline gate people PROJECT` reads them.

    With --prompts FILE you vote on other prompts, and the votes train the next model. Candidate and champion draw the
    images first, or champion and base if the candidate is the champion.

    The page is for you alone: its address, which has a secret token, is printed, and only this host can open it. Votes
    go to the project's source of kind feedback. Every vote is saved at once. Ctrl-C ends the page; run the command
    again to continue.
    """
    from pipelines.commands import by_hand
    from pipelines.host import shell_user
    from pipelines.stages import ballots

    name = (annotator if annotator is not None else shell_user()).strip()
    if not name:
        raise ValueError("--annotator is empty. Give a name.")
    if prompts is None:
        ballot = ballots.gate_ballot(project, annotator=name, source=source, most=pairs)
    else:
        key = by_hand.run_key(project)
        ballot = ballots.training_ballot(project, prompts, annotator=name, source=source, most=pairs, run_key=key)

    def announce(address: str) -> None:
        print(f"{ballot.note} {ballot.num_voted} of {len(ballot.pairs)} pairs have your vote.", file=sys.stderr)
        print(f"Open {address}\nCtrl-C ends the page.", file=sys.stderr, flush=True)

    show(ballots.open_page(ballot, port=port, announce=announce), as_json=as_json)
    return DONE
