"""The kinds of judge that `plumbline judges import` can import: one entry for each. Torch-free."""

from typing import Literal

from pydantic import Field

from alignment.catalogues.lookup import unknown_name
from alignment.contracts.values import Record, Sha256


class JudgeImport(Record):
    """Published weights of one kind of judge."""

    kind: str
    """Name in the rewards catalogue."""
    implementation: str
    """Import path of a function (ImportRequest, draft folder) -> None."""
    source: str
    """Description of --source, and its place of publication."""
    base: str = ""
    """Description of --base; empty where none is needed."""
    needs_template: bool = False
    reads_prompt: bool = True
    """False for a kind that scores the image alone."""
    published: dict[str, Sha256] = Field(default_factory=dict)
    """File name to the sha256 of the published file. If any is listed, the source must match one of them, or the user
    must pass the sha256 of another file with --sha256."""


class ImportRequest(Record):
    """One import, as requested on the command line."""

    kind: str
    source: str
    base: str | None = None
    template: str | None = None
    sha256: Sha256 | None = None
    """Required sha256 of the source file."""
    activation: Literal["none", "relu", "gelu"] = "none"
    """Activation between the layers of a local head."""
    reads: Literal["image", "image_text"] = "image"
    """Input of a local head."""


class ImportRecord(Record):
    """import.json in the judge's folder: the origin of its weights."""

    request: ImportRequest
    """The request, with file names instead of paths."""
    source_sha256: dict[str, Sha256]
    """sha256 of every weights file that was read, by file name."""
    is_published: bool
    """True if the sha256 is that of the published file; false also if no published sha256 is known."""


IMPORTS: tuple[JudgeImport, ...] = (
    JudgeImport(
        kind="pickscore",
        implementation="alignment.conversion.folders:import_clip",
        source="folder of yuvalkirstain/PickScore_v1",
        base="folder of laion/CLIP-ViT-H-14-laion2B-s32B-b79K (tokenizer and processor), if the source lacks them",
    ),
    JudgeImport(
        kind="clip_score",
        implementation="alignment.conversion.folders:import_clip",
        source="folder of a CLIP, e.g. openai/clip-vit-large-patch14",
        base="folder with tokenizer and processor, if the source lacks them",
    ),
    JudgeImport(
        kind="clip_preference",
        implementation="alignment.conversion.folders:import_clip",
        source="folder of a CLIP tuned on preferences",
        base="folder with tokenizer and processor, if the source lacks them",
    ),
    JudgeImport(
        kind="hpsv2",
        implementation="alignment.conversion.folders:import_hpsv2",
        source="HPS_v2_compressed.pt or HPS_v2.1_compressed.pt of xswu/HPSv2",
    ),
    JudgeImport(
        kind="imagereward",
        implementation="alignment.conversion.folders:import_imagereward",
        source="ImageReward.pt of THUDM/ImageReward",
        base="folder of google-bert/bert-base-uncased (vocab.txt)",
    ),
    JudgeImport(
        kind="aesthetic_v1",
        implementation="alignment.conversion.folders:import_head",
        reads_prompt=False,
        source="sa_0_4_vit_{l_14,b_32,b_16}_linear.pth of LAION-AI/aesthetic-predictor",
        base="folder of the OpenAI CLIP that the file name states",
        published={
            "sa_0_4_vit_l_14_linear.pth": "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
            "sa_0_4_vit_b_32_linear.pth": "c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f",
            "sa_0_4_vit_b_16_linear.pth": "8ad3923d7ecf019df20ecd2ab5542a3075fbba0278d239c0371345f3d7fcbde0",
        },
    ),
    JudgeImport(
        kind="aesthetic_v2",
        implementation="alignment.conversion.folders:import_head",
        reads_prompt=False,
        source="sac+logos+ava1-l14-linearMSE.pth of christophschuhmann/improved-aesthetic-predictor",
        base="folder of openai/clip-vit-large-patch14",
        published={
            "sac+logos+ava1-l14-linearMSE.pth": "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
        },
    ),
    JudgeImport(
        kind="clip_head",
        implementation="alignment.conversion.folders:import_head",
        source="linear layers of your own: .safetensors, .pt or .pth",
        base="folder of the CLIP that the head was trained on",
    ),
    JudgeImport(
        kind="hpsv3",
        implementation="alignment.conversion.folders:import_hpsv3",
        source="HPSv3.safetensors of MizzenAI/HPSv3",
        base="folder of Qwen/Qwen2-VL-7B-Instruct (config.json, tokenizer)",
        needs_template=True,
    ),
)


def find_import(kind: str) -> JudgeImport:
    """Return the entry of a kind. ValueError with the nearest known name when there is none."""
    known = {entry.kind: entry for entry in IMPORTS}
    if kind not in known:
        raise ValueError(unknown_name("judge to import", kind, known))
    return known[kind]
