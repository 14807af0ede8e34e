"""A Stable Diffusion for 64 px, built from configurations in seconds, and pairs of one-colour images to train it on."""

import io
import shutil
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from alignment.catalogues.backbones import BackboneParams, StableDiffusion
from alignment.catalogues.images import AspectBuckets, Square
from alignment.catalogues.rewards import ClipPreference
from alignment.contracts.data import SQUARE, EncodeSpec, FeatureCache
from alignment.contracts.jobs import Placement
from alignment.contracts.judges import Judge
from alignment.contracts.reference_errors import ReferenceSpec
from alignment.contracts.training import OnlineData, Recipe, TrainSpec
from alignment.files.durable import content_digest, file_sha256
from alignment.jobs.outcome import JobPaths, _parse_paths, exit_code

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 220), "white": (250, 250, 250)}
WORDS = ("a", "plain", "picture", *COLOURS)


def word_tokens() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return vocabulary and merges of a byte-pair tokenizer: one token for a few words, letters for the others."""
    pieces = [
        "<|startoftext|>",
        "<|endoftext|>",
        *string.ascii_lowercase,
        *(f"{c}</w>" for c in string.ascii_lowercase),
    ]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        symbols = [*word[:-1], f"{word[-1]}</w>"]
        left = symbols[0]
        for right in symbols[1:]:
            merges.append((left, right))
            left += right
    pieces += [left + right for left, right in dict.fromkeys(merges)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return vocabulary, list(dict.fromkeys(merges))


@pytest.fixture(scope="session")
def tiny_tokens() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """`word_tokens`, as a fixture for other files."""
    return word_tokens()


@pytest.fixture(scope="session")
def tiny_sd_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved StableDiffusionPipeline folder: 64 px images, 8x8x4 latents, random weights, epsilon prediction."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    vocabulary, merges = word_tokens()
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=12,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    folder = tmp_path_factory.mktemp("tiny_sd") / "base"
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def picture(colour: tuple[int, int, int], *, size: tuple[int, int] = (64, 64), dot: int = 0) -> bytes:
    """Return PNG bytes of a plain colour with a dark square whose position depends on `dot`."""
    image = Image.new("RGB", size, colour)
    image.paste((10, 10, 10), (8 * (dot % 6), 6 * (dot % 7), 8 * (dot % 6) + 14, 6 * (dot % 7) + 14))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def snapshot_rows(num_pairs: int) -> dict[str, list[object]]:
    """Return the columns of a snapshot's parquet; every fifth pair is a tie."""
    names = list(COLOURS)
    rows: dict[str, list[object]] = {}
    for index in range(num_pairs):
        colour, other = names[index % 4], names[(index + 1 + index // 4) % 4]
        row = {
            "pair_id": f"{index:064x}",
            "prompt": f"a plain {colour} picture",
            "caption_chosen": f"a plain {colour} picture",
            "caption_rejected": f"a plain {colour} picture",
            "image_chosen": picture(COLOURS[colour], dot=index),
            "image_rejected": picture(COLOURS[other], dot=index + 3),
            "is_tie": index % 5 == 4,
            "annotator_id": f"{index % 3}",
            "source": "plain",
            "licence": "CC0-1.0",
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    return rows


@pytest.fixture(scope="session")
def tiny_snapshot_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DatasetSnapshot folder: 30 training pairs of which 6 are ties."""
    folder = tmp_path_factory.mktemp("snapshot")
    for name, count in (("train", 30), ("calibration", 10), ("test", 5)):
        pq.write_table(pa.table(snapshot_rows(count)), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="session")
def tiny_captioned_snapshot_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pairs, with captions that describe each image; the first pair's captions equal its prompt."""
    folder = tmp_path_factory.mktemp("captioned_snapshot")
    rows = snapshot_rows(30)
    names = list(COLOURS)
    for index in range(1, 30):
        rows["caption_chosen"][index] = f"{names[index % 4]} {names[index % 4]}"
        rows["caption_rejected"][index] = f"picture {names[(index + 1 + index // 4) % 4]}"
    for name in ("train", "calibration", "test"):
        pq.write_table(pa.table(rows), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="session")
def tiny_mixed_snapshot_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pairs, wide, tall and square in turn; some rejected images have another shape than the chosen one."""
    folder = tmp_path_factory.mktemp("mixed_snapshot")
    shapes = [(96, 60), (60, 96), (64, 64), (100, 64), (48, 84)]
    rows = snapshot_rows(30)
    names = list(COLOURS)
    for index in range(30):
        size = shapes[(index * 3 + index // 5) % 5]
        other = shapes[(index + 1) % 5] if index % 7 == 3 else size
        rows["image_chosen"][index] = picture(COLOURS[names[index % 4]], size=size, dot=index)
        rows["image_rejected"][index] = picture(COLOURS[names[(index + 1) % 4]], size=other, dot=index + 3)
    for name in ("train", "calibration", "test"):
        pq.write_table(pa.table(rows), folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="session")
def tiny_clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of a few thousand random weights, in transformers' layout: letters only, 16 tokens, images of 32 px."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {piece: i for i, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0}
    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(
        text_config={**text, **width, "pad_token_id": 1},
        vision_config={**vision, **width},
        projection_dim=8,
        logit_scale_init_value=3.0,
        initializer_factor=8.0,
    )
    folder = tmp_path_factory.mktemp("tiny_clip") / "judge"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_captioner_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP of a few thousand weights that captions one-colour images as "a COLOUR picture"; 32 px, 8 tokens."""
    from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil, BlipProcessor
    from transformers.models.blip import BlipConfig

    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=8)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(pieces), "max_position_embeddings": 8, "encoder_hidden_size": 16, "pad_token_id": 0}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "initializer_range": 0.3}
    vision = {"image_size": 32, "patch_size": 16, "initializer_range": 0.3}
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)
    images = [Image.open(io.BytesIO(picture(colour, dot=dot))) for dot in (0, 3, 8) for colour in COLOURS.values()]
    words = processor(images=images, text=[f"a {name} picture" for name in COLOURS] * 3, return_tensors="pt")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = BlipConfig(text_config={**tower, **text, **ends}, vision_config={**tower, **vision})
        model = BlipForConditionalGeneration(config).train()
        adam = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            adam.zero_grad()
            model(**words, labels=words["input_ids"]).loss.backward()
            adam.step()
    folder = tmp_path_factory.mktemp("tiny_captioner") / "captioner"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


# --- jobs, run in this process ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Inputs by digest, an encoded cache, and methods to run jobs on them."""

    root: Path
    inputs: Path
    encode_spec: EncodeSpec
    cache: FeatureCache

    def encode(self, out: Path, *, spec: EncodeSpec | None = None, num_processes: int = 1) -> int:
        """Run the encode job in this process and return its exit code."""
        from alignment.jobs import encode

        return self._run(encode.main, spec or self.encode_spec, Placement(num_processes=num_processes), out)

    def train(self, out: Path, spec: TrainSpec, placement: Placement) -> int:
        """Run the train job in this process and return its exit code."""
        from alignment.jobs import train

        return self._run(train.main, spec, placement, out)

    def reference_errors(self, out: Path, spec: ReferenceSpec, placement: Placement) -> int:
        """Run the reference_errors job in this process and return its exit code."""
        from alignment.jobs import reference_errors

        return self._run(reference_errors.main, spec, placement, out)

    def train_spec(self, **changes: Any) -> TrainSpec:
        """Return the spec of a ten-step Diffusion-DPO run with adapters. `changes` replace fields of the recipe."""
        fields: dict[str, Any] = {
            "name": "tiny",
            "backbone": self.encode_spec.backbone,
            "images": self.encode_spec.images,
            "objective": {"name": "diffusion_dpo", "beta": 500.0},
            "tuning": {"kind": "lora", "rank": 4, "alpha": 4},
            "optimiser": {"learning_rate": 1e-3, "warmup_steps": 2},
            "global_batch": 8,
            "steps": 10,
            "seed": 3,
            "caption_dropout": 0.2,
        }
        recipe = Recipe.model_validate(fields | changes)
        return TrainSpec(
            recipe=recipe, base_digest=self.encode_spec.base_digest, cache_digest=self.cache.content_digest
        )

    def write_job(self, folder: Path, spec: BaseModel, placement: Placement, out: Path) -> list[str]:
        """Write a job's files and return the arguments that name them, for a separate process."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.json").write_text(spec.model_dump_json())
        (folder / "placement.json").write_text(placement.model_dump_json())
        return [
            *("--spec", str(folder / "spec.json"), "--placement", str(folder / "placement.json")),
            *("--inputs", str(self.inputs), "--out", str(out)),
        ]

    def _run(self, main: Callable[[JobPaths], None], spec: BaseModel, placement: Placement, out: Path) -> int:
        arguments = self.write_job(out.parent / f"{out.name}_job", spec, placement, out)
        threads = torch.get_num_threads()
        try:
            return exit_code(main, _parse_paths(arguments))
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def bench(tiny_sd_dir: Path, tiny_snapshot_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The tiny base, 24 pairs without ties, and their feature cache in shards of 7 pairs."""
    return bench_of(tiny_sd_dir, tiny_snapshot_dir, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def captioned_bench(
    tiny_sd_dir: Path, tiny_captioned_snapshot_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    """The same pairs, with a separate caption for each image."""
    return bench_of(tiny_sd_dir, tiny_captioned_snapshot_dir, tmp_path_factory.mktemp("captioned_bench"))


BUCKETS = AspectBuckets(step_pixels=16, flip=True)


@pytest.fixture(scope="session")
def bucketed_bench(tiny_sd_dir: Path, tiny_mixed_snapshot_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """24 pairs of three shapes in aspect buckets, half of them mirrored."""
    return bench_of(tiny_sd_dir, tiny_mixed_snapshot_dir, tmp_path_factory.mktemp("bucketed_bench"), images=BUCKETS)


@pytest.fixture(scope="session")
def make_bench(tiny_snapshot_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    """Factory of benches of other families: call it with a base folder, a backbone and, optionally, a snapshot."""

    def make(
        base_dir: Path,
        backbone: BackboneParams,
        snapshot_dir: Path = tiny_snapshot_dir,
        images: Square | AspectBuckets = SQUARE,
    ) -> Bench:
        return bench_of(base_dir, snapshot_dir, tmp_path_factory.mktemp("other_bench"), backbone, images=images)

    return make


TINY = StableDiffusion(resolution=64)


def bench_of(
    base_dir: Path,
    snapshot_dir: Path,
    root: Path,
    backbone: BackboneParams = TINY,
    *,
    images: Square | AspectBuckets = SQUARE,
) -> Bench:
    """Build a bench below `root`, with its cache encoded."""
    base_digest, snapshot_digest = content_digest(base_dir), content_digest(snapshot_dir)
    inputs = root / "inputs"
    shutil.copytree(base_dir, inputs / base_digest)
    shutil.copytree(snapshot_dir, inputs / snapshot_digest)
    spec = EncodeSpec(
        snapshot_digest=snapshot_digest,
        base_digest=base_digest,
        backbone=backbone,
        images=images,
        shard_pairs=7,
    )
    placeholder = FeatureCache(
        uri="",
        content_digest="0" * 64,
        spec_digest=spec.digest,
        num_pairs=1,
        num_captions=1,
        latent_shape=(1, 1, 1),
    )
    assert Bench(root, inputs, spec, placeholder).encode(root / "cache") == 0
    cache = FeatureCache.model_validate_json((root / "cache" / "result.json").read_text())
    shutil.copytree(root / "cache", inputs / cache.content_digest)
    return Bench(root, inputs, spec, cache)


@dataclass(frozen=True)
class OnlineBench:
    """The bench with a prompts file and a reward among its inputs."""

    bench: Bench
    data: OnlineData

    def train_spec(self, **changes: Any) -> TrainSpec:
        """Six steps of PRDP in epochs of two passes and one minibatch. `changes` replace fields of the recipe."""
        objective = {
            "name": "prdp",
            "reward": "taste",
            "beta": 3.0,
            "clip_range": 1e-3,
            "images_per_prompt": 3,
            "updates_per_epoch": 2,
            "sampler_steps": 4,
            "guidance_scale": 3.0,
        }
        fields: dict[str, Any] = {
            "name": "tiny_online",
            "backbone": self.bench.encode_spec.backbone,
            "objective": objective | changes.pop("objective", {}),
            "tuning": {"kind": "lora", "rank": 4, "alpha": 4},
            "optimiser": {"learning_rate": 1e-3},
            "global_batch": 2,
            "steps": 6,
            "seed": 3,
        }
        recipe = Recipe.model_validate(fields | changes)
        return TrainSpec(recipe=recipe, base_digest=self.bench.encode_spec.base_digest, online=self.data)


@pytest.fixture(scope="session")
def online_bench(bench: Bench, tiny_clip_dir: Path) -> OnlineBench:
    """Five prompts, and a tiny CLIP as the reward."""
    prompts = bench.root / "prompts.txt"
    prompts.write_text("".join(f"a plain {colour} picture\n" for colour in (*COLOURS, "a")))
    digest, weights_digest = file_sha256(prompts), content_digest(tiny_clip_dir)
    shutil.copy(prompts, bench.inputs / digest)
    shutil.copytree(tiny_clip_dir, bench.inputs / weights_digest)
    judge = Judge(name="taste", scorer=ClipPreference(), weights_digest=weights_digest, trained_on=("panel",))
    return OnlineBench(bench, OnlineData(prompts_digest=digest, reward=judge))


@pytest.fixture(scope="session")
def tiny_blip() -> dict[str, torch.Tensor]:
    """A tiny ImageReward.pt: 32 x 32 pixels in patches of 16, widths 16 and 12, two text layers, half precision."""
    generator = torch.Generator().manual_seed(7)
    tensors: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int) -> None:
        tensors[name] = (torch.randn(*shape, generator=generator) * 0.3).half()

    def linear(name: str, width_in: int, width_out: int) -> None:
        add(f"{name}.weight", width_out, width_in)
        add(f"{name}.bias", width_out)

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.ones(width).half(), torch.zeros(width).half()

    vision, text = "blip.visual_encoder", "blip.text_encoder"
    add(f"{vision}.cls_token", 1, 1, 16)
    add(f"{vision}.pos_embed", 1, 5, 16)
    add(f"{vision}.patch_embed.proj.weight", 16, 3, 16, 16)
    add(f"{vision}.patch_embed.proj.bias", 16)
    norm(f"{vision}.norm", 16)
    for part, sizes in {"attn.qkv": (16, 48), "attn.proj": (16, 16), "mlp.fc1": (16, 24), "mlp.fc2": (24, 16)}.items():
        linear(f"{vision}.blocks.0.{part}", *sizes)
    for part in ("norm1", "norm2"):
        norm(f"{vision}.blocks.0.{part}", 16)
    add(f"{text}.embeddings.word_embeddings.weight", 12, 12)
    add(f"{text}.embeddings.position_embeddings.weight", 40, 12)
    tensors[f"{text}.embeddings.position_ids"] = torch.arange(40)[None]
    norm(f"{text}.embeddings.LayerNorm", 12)
    for layer in (f"{text}.encoder.layer.{index}" for index in range(2)):
        for attention, width in (("attention", 12), ("crossattention", 16)):
            linear(f"{layer}.{attention}.self.query", 12, 12)
            linear(f"{layer}.{attention}.self.key", width, 12)
            linear(f"{layer}.{attention}.self.value", width, 12)
            linear(f"{layer}.{attention}.output.dense", 12, 12)
            norm(f"{layer}.{attention}.output.LayerNorm", 12)
        linear(f"{layer}.intermediate.dense", 12, 20)
        linear(f"{layer}.output.dense", 20, 12)
        norm(f"{layer}.output.LayerNorm", 12)
    linear("mlp.layers.0", 12, 6)
    linear("mlp.layers.7", 6, 1)
    linear("blip.vision_proj", 16, 4)
    return tensors


@pytest.fixture(scope="session")
def tiny_qwen() -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """A tiny Qwen2-VL config and HPSv3's weights with the published names: 14 words, patches of 4, width 16."""
    generator = torch.Generator().manual_seed(11)
    tensors: dict[str, torch.Tensor] = {}

    def linear(name: str, width_in: int, width_out: int, *, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = torch.randn(width_out, width_in, generator=generator) * 0.4
        if bias:
            tensors[f"{name}.bias"] = torch.randn(width_out, generator=generator) * 0.4

    tensors["model.embed_tokens.weight"] = torch.randn(14, 16, generator=generator)
    layer = "model.layers.0"
    for part, (width_in, width_out) in {"q": (16, 16), "k": (16, 8), "v": (16, 8)}.items():
        linear(f"{layer}.self_attn.{part}_proj", width_in, width_out)
    linear(f"{layer}.self_attn.o_proj", 16, 16, bias=False)
    for part, (width_in, width_out) in {"gate": (16, 24), "up": (16, 24), "down": (24, 16)}.items():
        linear(f"{layer}.mlp.{part}_proj", width_in, width_out, bias=False)
    norms = (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm")
    tensors |= {f"{part}.weight": torch.ones(16) for part in norms}
    tensors["visual.patch_embed.proj.weight"] = torch.randn(8, 3, 2, 4, 4, generator=generator) * 0.3
    for part, sizes in {"attn.qkv": (8, 24), "attn.proj": (8, 8), "mlp.fc1": (8, 32), "mlp.fc2": (32, 8)}.items():
        linear(f"visual.blocks.0.{part}", *sizes)
    norms = ("visual.blocks.0.norm1", "visual.blocks.0.norm2", "visual.merger.ln_q")
    tensors |= {f"{part}.weight": torch.ones(8) for part in norms} | {f"{part}.bias": torch.zeros(8) for part in norms}
    linear("visual.merger.mlp.0", 32, 32)
    linear("visual.merger.mlp.2", 32, 16)
    for part, sizes in {"0": (16, 12), "3": (12, 8), "5": (8, 2)}.items():
        linear(f"rm_head.{part}", *sizes)
    linear("lm_head", 16, 14, bias=False)
    config: dict[str, object] = {
        "model_type": "qwen2_vl",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 13,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "bos_token_id": None,
        "eos_token_id": None,
        "vision_config": {
            **{"depth": 1, "embed_dim": 8, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 4},
            **{"in_channels": 3, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2},
        },
    }
    return config, tensors
