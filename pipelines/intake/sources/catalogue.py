"""The kinds of preference source: a frozen params class each, named by `kind` in projects/NAME.toml."""

from typing import ClassVar, Literal

from alignment.catalogues.lookup import unknown_name
from alignment.contracts.values import Record

_READ = "pipelines.intake.sources"


class SourceParams(Record):
    """Fields of every kind. `implementation` names a class that is a sources.interface.PairSource."""

    implementation: ClassVar[str]
    labelled_by_people: ClassVar[bool] = True
    """True when people labelled the pairs. Only such pairs are held out to calibrate judges, and only their annotators
    are hashed.
    """
    has_votes: ClassVar[bool] = True
    """True when a label may be a share of votes: batches and snapshots then have the columns of votes."""
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Columns by which a file of this kind is recognised: all of one layout. Empty where the project names columns."""
    example: ClassVar[str]
    """The lines of a minimal `[[sources]]` table after its name."""


class PickAPic(SourceParams):
    """Pick-a-Pic v1 and v2 and data sets of that layout (Pick-Style, Pick-Safety, Pick-Double-Caption): parquet shards
    with the encoded images inside.
    """

    implementation: ClassVar[str] = f"{_READ}.pick_a_pic:PickAPicSource"
    has_votes: ClassVar[bool] = False
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("caption", "jpg_0", "jpg_1", "label_0"),
        ("caption_0", "caption_1", "jpg_0", "jpg_1", "label_0"),
    )
    example: ClassVar[str] = 'uri = "../data/pickapic_v2"\nsplit = "train"\ndata_sets = ["pick_a_pic_v2"]'

    kind: Literal["pick_a_pic"] = "pick_a_pic"


class Table(SourceParams):
    """Any parquet, CSV or JSON Lines table; `[sources.columns]` names its columns."""

    implementation: ClassVar[str] = f"{_READ}.table:TableSource"
    example: ClassVar[str] = (
        'uri = "../data/votes.csv"\n[sources.columns]\nprompt = "text"\nimage_0 = "left"\nimage_1 = "right"\n'
        'choice = "winner"\nchoice_0 = "left"\nchoice_1 = "right"'
    )

    kind: Literal["table"] = "table"


class Folder(SourceParams):
    """Image files: `w/NAME.png` preferred over `l/NAME.png` with the prompt in `NAME.txt`, or a folder for each ranking
    with `prompt.txt` and images named by rank.
    """

    implementation: ClassVar[str] = f"{_READ}.folder:FolderSource"
    example: ClassVar[str] = 'uri = "../data/comparisons"'

    kind: Literal["folder"] = "folder"


class Hpd(SourceParams):
    """HPDv2 and HPDv3: JSON with a prompt, image paths, and a preference, a ranking or vote counts."""

    implementation: ClassVar[str] = f"{_READ}.hpd:HpdSource"
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("prompt", "image_path", "human_preference"),
        ("prompt", "file_path", "human_preference"),
        ("prompt", "image_path", "rank"),
        ("prompt", "path1", "path2"),
    )
    example: ClassVar[str] = 'uri = "../data/HPDv3"\nsplit = "train"\ndata_sets = ["hpd_v3"]'

    kind: Literal["hpd"] = "hpd"


class ImageRewardDb(SourceParams):
    """ImageRewardDB: a table with one row for each image of a prompt and its rank, or one for each pair."""

    implementation: ClassVar[str] = f"{_READ}.image_reward_db:ImageRewardDbSource"
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("prompt_id", "prompt", "rank", "image_path"),
        ("prompt_id", "prompt", "rank", "image"),
        ("prompt", "img_better", "img_worse"),
    )
    example: ClassVar[str] = 'uri = "../data/ImageRewardDB"\nsplit = "train"\ndata_sets = ["image_reward_db"]'

    kind: Literal["image_reward_db"] = "image_reward_db"


class OpenImagePreferences(SourceParams):
    """open-image-preferences-v1-binarized: a chosen and a rejected image in each row."""

    implementation: ClassVar[str] = f"{_READ}.open_image_preferences:OpenImagePreferencesSource"
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "chosen", "rejected"),)
    example: ClassVar[str] = 'uri = "../data/open-image-preferences-v1-binarized"'

    kind: Literal["open_image_preferences"] = "open_image_preferences"


class Rapidata(SourceParams):
    """Rapidata's preference sets: two images with counts or weighted shares of the votes."""

    implementation: ClassVar[str] = f"{_READ}.rapidata:RapidataSource"
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("prompt", "image1", "image2", "votes_image1", "votes_image2"),
        ("prompt", "image1", "image2", "weighted_results_image1_preference"),
    )
    example: ClassVar[str] = 'uri = "../data/rapidata-flux"'

    kind: Literal["rapidata"] = "rapidata"


class Arena(SourceParams):
    """GenAI-Arena and GenAI-Bench: a left and a right image and a vote."""

    implementation: ClassVar[str] = f"{_READ}.arena:ArenaSource"
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "left_image", "right_image", "vote_type"),)
    example: ClassVar[str] = 'uri = "../data/GenAI-Bench"\nsplit = "test"'

    kind: Literal["arena"] = "arena"


class LabelStudio(SourceParams):
    """A JSON export of Label Studio with the tag Pairwise or Choices; each annotation is a row."""

    implementation: ClassVar[str] = f"{_READ}.label_studio:LabelStudioSource"
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (("data", "annotations"),)
    example: ClassVar[str] = (
        'uri = "../data/export.json"\n[sources.columns]\nprompt = "prompt"\nimage_0 = "image1"\nimage_1 = "image2"'
    )

    kind: Literal["label_studio"] = "label_studio"


class Argilla(SourceParams):
    """Records of Argilla, exported as JSON or as a parquet data set; each submitted response is a row."""

    implementation: ClassVar[str] = f"{_READ}.argilla:ArgillaSource"
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (("fields", "responses"),)
    example: ClassVar[str] = (
        'uri = "../data/records.json"\n[sources.columns]\nprompt = "prompt"\nimage_0 = "image_1"\n'
        'image_1 = "image_2"\nchoice = "preference"\nchoice_0 = "image_1"\nchoice_1 = "image_2"'
    )

    kind: Literal["argilla"] = "argilla"


class Likes(SourceParams):
    """Single images that people liked or disliked: a table with a prompt, an image and a vote in each row. Snapshots
    keep them apart from the pairs; no objective takes them yet.
    """

    implementation: ClassVar[str] = f"{_READ}.likes:LikesSource"
    has_votes: ClassVar[bool] = False
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "image", "liked"),)
    example: ClassVar[str] = (
        'uri = "../data/likes.csv"\n[sources.columns]\nprompt = "text"\nimage = "file"\nliked = "thumb"\n'
        'annotator = "user"'
    )

    kind: Literal["likes"] = "likes"


class Feedback(SourceParams):
    """A table of votes in PostgreSQL or SQLite, made by `plumbline feedback init`."""

    implementation: ClassVar[str] = f"{_READ}.feedback:FeedbackSource"
    layouts: ClassVar[tuple[tuple[str, ...], ...]] = ()
    example: ClassVar[str] = 'uri = "../data/feedback.db"'

    kind: Literal["feedback"] = "feedback"


class Huggingface(SourceParams):
    """A data set of the Hugging Face Hub at a pinned revision, or a local copy, whose columns fit another kind or are
    named in `[sources.columns]`.
    """

    implementation: ClassVar[str] = f"{_READ}.huggingface:HuggingfaceSource"
    example: ClassVar[str] = (
        'uri = "hub://yuvalkirstain/pickapic_v2@0123456789abcdef0123456789abcdef01234567"\nsplit = "train"'
    )

    kind: Literal["huggingface"] = "huggingface"


class SelfGenerated(SourceParams):
    """Pairs drawn by the base model; words of style or safety are added to the chosen image's prompt, as MaPO's authors
    do.
    """

    implementation: ClassVar[str] = f"{_READ}.self_generated:SelfGeneratedSource"
    has_votes: ClassVar[bool] = False
    labelled_by_people: ClassVar[bool] = False
    example: ClassVar[str] = (
        '[sources.draw]\nprompts = "prompts.txt"\nchosen_template = "{prompt}, in pixel art style"\nseeds = [0]\n'
        "sampler = { steps = 20 }"
    )

    kind: Literal["self_generated"] = "self_generated"


SOURCES: tuple[type[SourceParams], ...] = (
    PickAPic,
    Table,
    Folder,
    ImageRewardDb,  # before Hpd, whose rankings have fewer columns
    Hpd,
    OpenImagePreferences,
    Rapidata,
    Arena,
    LabelStudio,
    Argilla,
    Likes,
    Feedback,
    Huggingface,
    SelfGenerated,
)


def find_source(kind: str) -> type[SourceParams]:
    """Return the entry of this kind; ValueError with the nearest known name when there is none."""
    known = {cls.model_fields["kind"].default: cls for cls in SOURCES}
    if kind not in known:
        raise ValueError(unknown_name("source kind", kind, known))
    return known[kind]


def source_example(kind: type[SourceParams]) -> str:
    """Return a minimal `[[sources]]` table of a kind, as TOML."""
    fields, mark, table = kind.example.partition("[sources.")
    head = ["[[sources]]", 'name = "votes"', f'kind = "{kind.model_fields["kind"].default}"']
    return "\n".join([*head, *fields.split("\n"), 'licence = "CC-BY-4.0"', mark + table]).replace("\n\n", "\n").strip()
