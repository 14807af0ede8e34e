"""Columns of a table of pairs, named in the project file. Torch-free and airflow-free."""

from typing import Self

from pydantic import model_validator

from alignment.contracts.values import Record

__all__ = ["ColumnsSection"]


class ColumnsSection(Record):
    """Columns of a table of pairs. Give the prompt, and either chosen and rejected, or two images and one label; for a
    source of kind likes one image and its label."""

    prompt: str = "prompt"
    """Column of the prompt."""
    image_0: str = ""
    """Column of the first image: encoded bytes, a struct of bytes and path, a data URI, or a path relative to the
    table."""
    image_1: str = ""
    """Column of the second image."""
    chosen: str = ""
    """Column of the preferred image, instead of image_0, image_1 and a label."""
    rejected: str = ""
    """Column of the other image."""
    image: str = ""
    """Column of the only image of a row, for kind likes; generator_0 and caption_0 are then about it."""
    liked: str = ""
    """Label of `image`: true or false, 1 or 0, or a word: yes, like, liked, up, or no, dislike, disliked, down."""
    preference: str = ""
    """Label: column of the share of the votes for image 0, from 0 to 1."""
    choice: str = ""
    """Label: column of the vote, as text or number."""
    choice_0: str = "0"
    """Value of `choice` for image 0."""
    choice_1: str = "1"
    """Value of `choice` for image 1."""
    choice_tie: str = "tie"
    """Value of `choice` for a tie."""
    votes_0: str = ""
    """Label: column of the number of votes for image 0, together with votes_1."""
    votes_1: str = ""
    """Column of the number of votes for image 1."""
    num_votes: str = ""
    """Column of the number of people behind `preference`."""
    annotator: str = ""
    """Column of the person who voted; it is hashed."""
    created_at: str = ""
    """Column of the time of the vote: a timestamp, ISO 8601 text or Unix seconds."""
    caption_0: str = ""
    """Column of a separate caption of image 0."""
    caption_1: str = ""
    """Column of a separate caption of image 1."""
    generator_0: str = ""
    """Column of the model that made image 0, or the chosen image."""
    generator_1: str = ""
    """Column of the model that made image 1, or the rejected image."""

    @model_validator(mode="after")
    def _has_images_and_one_label(self) -> Self:
        labels = [bool(self.preference), bool(self.choice), bool(self.votes_0 and self.votes_1)]
        resolved, compared = bool(self.chosen and self.rejected), bool(self.image_0 and self.image_1)
        single = bool(self.image and self.liked)
        is_half = bool(self.image or self.liked) != single
        if resolved + compared + single != 1 or is_half or sum(labels) > 1 or (any(labels) and not compared):
            raise ValueError(
                "needs either `chosen` and `rejected`, or `image_0` and `image_1` with one label: `preference`,"
                " `choice`, or `votes_0` and `votes_1`; or, for a source of kind likes, `image` and `liked` alone"
            )
        return self

    def named(self) -> tuple[str, ...]:
        """Return the columns that the file must have."""
        values = {"choice_0", "choice_1", "choice_tie"}
        names = [str(getattr(self, field)) for field in type(self).model_fields if field not in values]
        return tuple(name for name in names if name)
