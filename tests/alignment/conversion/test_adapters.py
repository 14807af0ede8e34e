"""Adapters in other programs' formats: every key is in the reader's own table, and the network computes the same.

The tables of readers are written here from their naming rules, apart from the code that exports. `Target` says where a
reader adds an adapter: some rows of one layer of diffusers' denoiser.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from diffusers.utils import convert_state_dict_to_kohya, convert_unet_state_dict_to_peft
from safetensors.torch import load_file, save_file

from alignment.backbones.diffusers_model import Family, _save_lora
from alignment.backbones.model_files import LORA_FILE, LORA_METADATA
from alignment.contracts.training import Lora
from alignment.conversion.adapters import comfyui_tensors, kohya_tensors, read_adapter

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

RANK, ALPHA = 4, 12
ATTENTION = Lora().target_modules
UNET_MORE = ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "time_emb_proj", "conv_shortcut", "conv")
UNET_ENDS = ("conv_in", "conv_out", "linear_1", "linear_2", "conv2")
TEXT_STREAM = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
SD3_MORE = (*TEXT_STREAM, "net.0.proj", "net.2", "norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")
SD3_ENDS = ("pos_embed.proj", "context_embedder", "linear_1", "linear_2")
FLUX_MORE = (*SD3_MORE, "proj_mlp", "norm.linear", "x_embedder", "context_embedder", "linear_1", "linear_2")

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Target:
    """The layer that a reader changes, the rows that it changes, and the number of all rows of the reader's layer."""

    layer: str
    first_row: int = 0
    swap: bool = False


Table = dict[str, tuple[Target, ...]]


@dataclass(frozen=True)
class Model:
    """A family with a tiny denoiser of its real class."""

    family: str
    pipeline: str
    build: Callable[[], Any]
    inputs: Callable[[], dict[str, torch.Tensor]]
    more: tuple[str, ...]
    """Layers beside the default ones that the export knows."""

    @property
    def part(self) -> str:
        return "unet" if self.family in ("stable_diffusion", "sdxl") else "transformer"


def unet(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 2,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 8,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**fields, **changes})


def sd_unet() -> Any:
    return unet(
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def sdxl_unet(layers: int = 2) -> Any:
    return unet(
        layers_per_block=layers,
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )


def sd3_transformer() -> Any:
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def flux_transformer() -> Any:
    return FluxTransformer2DModel(
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def unet_inputs() -> dict[str, Any]:
    return {"sample": noise(2, 4, 8, 8), "timestep": torch.tensor([3, 700]), "encoder_hidden_states": noise(2, 5, 8)}


def sdxl_inputs() -> dict[str, Any]:
    added = {"text_embeds": noise(2, 8), "time_ids": noise(2, 6)}
    return {**unet_inputs(), "added_cond_kwargs": added}


def sd3_inputs() -> dict[str, Any]:
    return {
        "hidden_states": noise(2, 4, 8, 8),
        "timestep": torch.tensor([3, 700]),
        "encoder_hidden_states": noise(2, 5, 8),
        "pooled_projections": noise(2, 8),
    }


def flux_inputs() -> dict[str, Any]:
    return {
        "hidden_states": noise(2, 16, 8),
        "timestep": torch.tensor([0.003, 0.7]),
        "guidance": torch.tensor([3.5, 3.5]),
        "encoder_hidden_states": noise(2, 5, 8),
        "pooled_projections": noise(2, 8),
        "img_ids": torch.arange(48.0).reshape(16, 3),
        "txt_ids": torch.zeros(5, 3),
    }


MODELS = {
    "sd": Model("stable_diffusion", "StableDiffusionPipeline", sd_unet, unet_inputs, (*UNET_MORE, *UNET_ENDS)),
    "sdxl": Model("sdxl", "StableDiffusionXLPipeline", sdxl_unet, sdxl_inputs, (*UNET_MORE, *UNET_ENDS)),
    "sd3": Model("sd3", "StableDiffusion3Pipeline", sd3_transformer, sd3_inputs, (*SD3_MORE, *SD3_ENDS)),
    "flux": Model("flux", "FluxPipeline", flux_transformer, flux_inputs, FLUX_MORE),
}
PIPELINES = {
    pipeline.__name__: pipeline
    for pipeline in (StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline, FluxPipeline)
}


def built(model: Model) -> Any:
    """A denoiser whose weights and biases are all random, the zeros of fresh modulations and norms included."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = model.build().requires_grad_(False).eval()
        for weight in denoiser.parameters():
            weight.add_(torch.randn(weight.shape) * 0.05)
    return denoiser


def adapted(model: Model, targets: tuple[str, ...]) -> Any:
    """The denoiser with an adapter that is not the identity, of alpha three times the rank."""
    from peft import LoraConfig

    denoiser = built(model)
    denoiser.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(targets)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in denoiser.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / 8)
    return denoiser


def saved(model: Model, denoiser: Any, folder: Path) -> Path:
    """The weights/ folder of a training."""
    folder.mkdir()
    parts: Any = model.part
    _save_lora(Family(model.pipeline, type(denoiser), parts, (), (), uses_ddim=True), denoiser, folder)
    return folder


@torch.no_grad()
def output(model: Model, denoiser: Any) -> torch.Tensor:
    result: torch.Tensor = denoiser(**model.inputs(), return_dict=False)[0]
    return result


@dataclass
class Trained:
    """An adapter on disk, and the network's output with and without it."""

    model: Model
    weights_dir: Path
    expected: torch.Tensor
    untouched: torch.Tensor


def train(model: Model, folder: Path, targets: tuple[str, ...]) -> Trained:
    denoiser = adapted(model, targets)
    expected = output(model, denoiser)
    weights_dir = saved(model, denoiser, folder / "weights")
    untouched = output(model, built(model))
    assert not torch.allclose(expected, untouched, atol=1e-2)
    return Trained(model, weights_dir, expected, untouched)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


@pytest.fixture(params=["default", "every"])
def trained(request: pytest.FixtureRequest, model: Model, tmp_path: Path) -> Trained:
    """An adapter on the layers that recipes train, and one on every layer that the export knows."""
    targets = ATTENTION if request.param == "default" else (*ATTENTION, *model.more)
    return train(model, tmp_path, targets)


def assert_same_network(network: torch.Tensor, trained: Trained) -> None:
    torch.testing.assert_close(network, trained.expected, rtol=1e-4, atol=1e-4)


# --- tables of readers ------------------------------------------------------------------------------------------------


def unet_layers(denoiser: Any) -> Iterator[str]:
    """The layers of a UNet of Stable Diffusion, by diffusers' naming rule."""
    config = denoiser.config
    residual = ("conv1", "conv2", "time_emb_proj", "conv_shortcut")
    attention = [f"attn{n}.to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out.0")] + ["ff.net.0.proj", "ff.net.2"]
    blocks = len(config.block_out_channels)
    places = [("mid_block", 2, 1)]
    places += [(f"down_blocks.{i}", config.layers_per_block, config.layers_per_block) for i in range(blocks)]
    places += [(f"up_blocks.{i}", config.layers_per_block + 1, config.layers_per_block + 1) for i in range(blocks)]
    for block, residuals, attentions in places:
        yield from (f"{block}.resnets.{j}.{name}" for j in range(residuals) for name in residual)
        yield from (f"{block}.{way}samplers.0.conv" for way in ("down", "up"))
        for j in range(attentions):
            yield from (f"{block}.attentions.{j}.{name}" for name in ("proj_in", "proj_out"))
            yield from (f"{block}.attentions.{j}.transformer_blocks.{t}.{n}" for t in range(2) for n in attention)
    yield from ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
    yield from ("add_embedding.linear_1", "add_embedding.linear_2")


def by_module(denoiser: Any) -> Table:
    """kohya's scripts for SD 1 and 2, and ComfyUI for any UNet: diffusers' path with underscores."""
    present = dict(denoiser.named_modules())
    return {f"lora_unet_{name.replace('.', '_')}": (Target(name),) for name in unet_layers(denoiser) if name in present}


def sgm_layers(denoiser: Any) -> Table:
    """kohya's scripts for SDXL: the blocks of sgm's UNet, counted by hand."""
    down = {1: "0.resnets.0", 2: "0.resnets.1", 4: "1.resnets.0", 5: "1.resnets.1", 7: "2.resnets.0", 8: "2.resnets.1"}
    up = {n: f"{n // 3}.resnets.{n % 3}" for n in range(9)}
    ends = {"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj"}
    ends["skip_connection"] = "conv_shortcut"
    names = {
        "input_blocks_0_0": "conv_in",
        "input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "input_blocks_6_0_op": "down_blocks.1.downsamplers.0.conv",
        "output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks_5_2_conv": "up_blocks.1.upsamplers.0.conv",
        "out_2": "conv_out",
        "time_embed_0": "time_embedding.linear_1",
        "time_embed_2": "time_embedding.linear_2",
        "label_emb_0_0": "add_embedding.linear_1",
        "label_emb_0_2": "add_embedding.linear_2",
    }
    residual = {f"input_blocks_{n}_0": f"down_blocks.{place}" for n, place in down.items()}
    residual |= {f"output_blocks_{n}_0": f"up_blocks.{place}" for n, place in up.items()}
    residual |= {"middle_block_0": "mid_block.resnets.0", "middle_block_2": "mid_block.resnets.1"}
    names |= {f"{ours}_{end}": f"{theirs}.{name}" for ours, theirs in residual.items() for end, name in ends.items()}
    attention = {f"input_blocks_{n}_1": f"down_blocks.{down[n]}" for n in (4, 5, 7, 8)}
    attention |= {f"output_blocks_{n}_1": f"up_blocks.{up[n]}" for n in range(6)}
    attention["middle_block_1"] = "mid_block.resnets.0"
    inner = [f"transformer_blocks.{t}.attn{n}.to_{x}" for t in (0, 1) for n in (1, 2) for x in ("q", "k", "v", "out.0")]
    inner += [f"transformer_blocks.{t}.ff.net.{x}" for t in (0, 1) for x in ("0.proj", "2")] + ["proj_in", "proj_out"]
    for ours, theirs in attention.items():
        layer = theirs.replace("resnets", "attentions")
        names |= {f"{ours}_{name.replace('.', '_')}": f"{layer}.{name}" for name in inner}
    present = dict(denoiser.named_modules())
    return {f"lora_unet_{name}": (Target(layer),) for name, layer in names.items() if layer in present}


def joined(layers: tuple[str, ...], denoiser: Any) -> tuple[Target, ...]:
    """Layers of diffusers that are one layer of the authors, in the order of its rows."""
    targets, row = [], 0
    for layer in layers:
        targets.append(Target(layer, row))
        row += denoiser.get_submodule(layer).out_features
    return tuple(targets)


def fused(block: str, first: str = "to_{}") -> tuple[str, ...]:
    return tuple(f"{block}.{first.format(x)}" for x in "qkv")


def mmdit_layers(denoiser: Any) -> Table:
    """kohya's scripts for SD3: MMDiT."""
    table = {
        "x_embedder_proj": (Target("pos_embed.proj"),),
        "context_embedder": (Target("context_embedder"),),
        "final_layer_linear": (Target("proj_out"),),
        "final_layer_adaLN_modulation_1": (Target("norm_out.linear", swap=True),),
    }
    for ours, theirs in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
        table |= {f"{ours}_mlp_{2 * n}": (Target(f"time_text_embed.{theirs}.linear_{n + 1}"),) for n in (0, 1)}
    last = denoiser.config.num_layers - 1
    for n in range(last + 1):
        ours, block = f"joint_blocks_{n}", f"transformer_blocks.{n}"
        table[f"{ours}_x_block_attn_qkv"] = joined(fused(f"{block}.attn"), denoiser)
        table[f"{ours}_context_block_attn_qkv"] = joined(fused(f"{block}.attn", "add_{}_proj"), denoiser)
        pairs = {
            "x_block_attn_proj": "attn.to_out.0",
            "x_block_mlp_fc1": "ff.net.0.proj",
            "x_block_mlp_fc2": "ff.net.2",
        }
        pairs["x_block_adaLN_modulation_1"] = "norm1.linear"
        if n == 0:
            table[f"{ours}_x_block_attn2_qkv"] = joined(fused(f"{block}.attn2"), denoiser)
            pairs["x_block_attn2_proj"] = "attn2.to_out.0"
        if n < last:
            pairs |= {"context_block_attn_proj": "attn.to_add_out", "context_block_mlp_fc1": "ff_context.net.0.proj"}
            pairs["context_block_mlp_fc2"] = "ff_context.net.2"
        table |= {f"{ours}_{name}": (Target(f"{block}.{layer}"),) for name, layer in pairs.items()}
        modulation = Target(f"{block}.norm1_context.linear", swap=n == last)
        table[f"{ours}_context_block_adaLN_modulation_1"] = (modulation,)
    return {f"lora_unet_{name}": targets for name, targets in table.items()}


def flux_layers(denoiser: Any) -> Table:
    """kohya's scripts for FLUX: the authors' double and single blocks."""
    table = {
        "img_in": (Target("x_embedder"),),
        "txt_in": (Target("context_embedder"),),
        "final_layer_linear": (Target("proj_out"),),
        "final_layer_adaLN_modulation_1": (Target("norm_out.linear", swap=True),),
    }
    for ours, theirs in (("time", "timestep"), ("vector", "text"), ("guidance", "guidance")):
        for way, n in (("in", 1), ("out", 2)):
            table[f"{ours}_in_{way}_layer"] = (Target(f"time_text_embed.{theirs}_embedder.linear_{n}"),)
    for n in range(denoiser.config.num_layers):
        ours, block = f"double_blocks_{n}", f"transformer_blocks.{n}"
        table[f"{ours}_img_attn_qkv"] = joined(fused(f"{block}.attn"), denoiser)
        table[f"{ours}_txt_attn_qkv"] = joined(fused(f"{block}.attn", "add_{}_proj"), denoiser)
        for stream, end, out in (("img", "", "to_out.0"), ("txt", "_context", "to_add_out")):
            table[f"{ours}_{stream}_attn_proj"] = (Target(f"{block}.attn.{out}"),)
            table[f"{ours}_{stream}_mlp_0"] = (Target(f"{block}.ff{end}.net.0.proj"),)
            table[f"{ours}_{stream}_mlp_2"] = (Target(f"{block}.ff{end}.net.2"),)
            table[f"{ours}_{stream}_mod_lin"] = (Target(f"{block}.norm1{end}.linear"),)
    for n in range(denoiser.config.num_single_layers):
        ours, block = f"single_blocks_{n}", f"single_transformer_blocks.{n}"
        table[f"{ours}_linear1"] = joined((*fused(f"{block}.attn"), f"{block}.proj_mlp"), denoiser)
        table[f"{ours}_linear2"] = (Target(f"{block}.proj_out"),)
        table[f"{ours}_modulation_lin"] = (Target(f"{block}.norm.linear"),)
    return {f"lora_unet_{name}": targets for name, targets in table.items()}


def by_path(table: Table) -> Table:
    """ComfyUI for SD3 and FLUX: `transformer.` and diffusers' path, for each layer that it knows in the model."""
    return {f"transformer.{own.layer}": (Target(own.layer),) for targets in table.values() for own in targets}


KOHYA: dict[str, Callable[[Any], Table]] = {
    "stable_diffusion": by_module,
    "sdxl": sgm_layers,
    "sd3": mmdit_layers,
    "flux": flux_layers,
}
COMFYUI: dict[str, Callable[[Any], Table]] = {
    "stable_diffusion": by_module,
    "sdxl": by_module,
    "sd3": lambda denoiser: by_path(mmdit_layers(denoiser)),
    "flux": lambda denoiser: by_path(flux_layers(denoiser)),
}


def merged_by_reader(model: Model, tensors: Tensors, table: Table) -> Any:
    """Load as ComfyUI and kohya's scripts do: add alpha / rank times up times down to the weight; alpha is the rank
    where none is stated."""
    denoiser = built(model)
    left = set(tensors)
    for name, targets in table.items():
        if f"{name}.lora_up.weight" not in tensors:
            continue
        up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
        alpha = tensors.get(f"{name}.alpha", torch.tensor(float(len(down)))).item()
        left -= {f"{name}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha")}
        delta = alpha / len(down) * (up.flatten(1) @ down.flatten(1))
        assert len(delta) == sum(denoiser.get_submodule(own.layer).weight.shape[0] for own in targets)
        for own in targets:
            weight = denoiser.get_submodule(own.layer).weight
            rows = delta[own.first_row : own.first_row + len(weight)]
            weight += (torch.cat(rows.chunk(2)[::-1]) if own.swap else rows).reshape(weight.shape)
    assert left == set(), "keys that the reader does not know"
    return denoiser


# --- tests ------------------------------------------------------------------------------------------------------------


def test_the_file_states_the_scale_of_the_adapter(trained: Trained) -> None:
    adapter = read_adapter(trained.weights_dir)
    assert (adapter.part, adapter.scale) == (trained.model.part, 3.0)
    assert {len(layer.down) for layer in adapter.layers} == {RANK}


@pytest.mark.parametrize(("name", "tables"), [("kohya", KOHYA), ("comfyui", COMFYUI)], ids=["kohya", "comfyui"])
def test_the_reader_knows_every_key_and_computes_the_same(
    trained: Trained, name: str, tables: dict[str, Callable[[Any], Table]]
) -> None:
    model = trained.model
    naming = {"kohya": kohya_tensors, "comfyui": comfyui_tensors}[name]
    tensors = naming(read_adapter(trained.weights_dir), model.family)
    assert {key.rpartition(".alpha")[0] for key in tensors if key.endswith(".alpha")} == {
        key.rpartition(".lora_up")[0] for key in tensors if ".lora_up." in key
    }, "each layer has its alpha"
    merged = merged_by_reader(model, tensors, tables[model.family](built(model)))
    assert_same_network(output(model, merged), trained)


def test_a_reader_that_finds_no_alpha_computes_something_else(tmp_path: Path) -> None:
    """The check above would see a missing alpha."""
    trained = train(MODELS["sdxl"], tmp_path, ATTENTION)
    tensors = kohya_tensors(read_adapter(trained.weights_dir), "sdxl")
    without = {key: value for key, value in tensors.items() if not key.endswith(".alpha")}
    merged = merged_by_reader(trained.model, without, sgm_layers(built(trained.model)))
    assert not torch.allclose(output(trained.model, merged), trained.expected, atol=1e-2)


def read_by_pipeline(model: Model, folder: Path, weight_name: str) -> torch.Tensor:
    """Load with diffusers' own reader, in a pipeline that has only its denoiser."""
    pipeline_class: Any = PIPELINES[model.pipeline]
    parts = dict.fromkeys(pipeline_class._get_signature_keys(pipeline_class)[0])
    pipeline = pipeline_class(**{**parts, model.part: built(model)})
    pipeline.load_lora_weights(folder, weight_name=weight_name, local_files_only=True)
    return output(model, getattr(pipeline, model.part))


def test_diffusers_reads_the_weights_as_they_are(trained: Trained) -> None:
    assert_same_network(read_by_pipeline(trained.model, trained.weights_dir, LORA_FILE), trained)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_diffusers_reads_the_kohya_file_of_a_unet(family: str, tmp_path: Path) -> None:
    trained = train(MODELS[family], tmp_path, ATTENTION)
    tensors = kohya_tensors(read_adapter(trained.weights_dir), trained.model.family)
    save_file(tensors, tmp_path / "kohya.safetensors")
    assert_same_network(read_by_pipeline(trained.model, tmp_path, "kohya.safetensors"), trained)


def test_diffusers_reads_the_double_blocks_of_a_kohya_file_of_flux(tmp_path: Path) -> None:
    """Its reader has the widths of the published model for single blocks, so a tiny one cannot be read."""
    trained = train(MODELS["flux"], tmp_path, ATTENTION)
    adapter = read_adapter(trained.weights_dir)
    double = {name: value for name, value in kohya_tensors(adapter, "flux").items() if "double" in name}
    read = _convert_kohya_flux_lora_to_diffusers(double)
    for layer in adapter.layers:
        if layer.name.startswith("transformer_blocks"):
            name = f"transformer.{layer.name}"
            delta = read[f"{name}.lora_B.weight"] @ read[f"{name}.lora_A.weight"]
            torch.testing.assert_close(delta, adapter.scale * layer.up @ layer.down)
    assert len(read) == 2 * 4 * 2


def test_names_are_those_of_diffusers_converter(tmp_path: Path) -> None:
    """Its alpha is the rank, so only names are compared."""
    trained = train(MODELS["sd"], tmp_path, ATTENTION)
    theirs = convert_state_dict_to_kohya(convert_unet_state_dict_to_peft(load_file(trained.weights_dir / LORA_FILE)))
    assert set(comfyui_tensors(read_adapter(trained.weights_dir), "stable_diffusion")) == set(theirs)


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("targets", [("to_k",), ("to_q", "to_v"), ("proj_mlp", "to_out.0")])
def test_a_joined_layer_may_have_adapters_on_some_of_its_parts(
    family: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    trained = train(MODELS[family], tmp_path, targets)
    tensors = kohya_tensors(read_adapter(trained.weights_dir), family)
    merged = merged_by_reader(trained.model, tensors, KOHYA[family](built(trained.model)))
    assert_same_network(output(trained.model, merged), trained)


def test_a_unet_with_other_blocks_than_sdxl_has_no_kohya_names(tmp_path: Path) -> None:
    one_layer = Model("sdxl", "StableDiffusionXLPipeline", lambda: sdxl_unet(1), sdxl_inputs, ())
    trained = train(one_layer, tmp_path, ATTENTION)
    adapter = read_adapter(trained.weights_dir)
    with pytest.raises(ValueError, match="2 layers per block, but this adapter is of a UNet with 1"):
        kohya_tensors(adapter, "sdxl")
    merged = merged_by_reader(one_layer, comfyui_tensors(adapter, "sdxl"), by_module(built(one_layer)))
    assert_same_network(output(one_layer, merged), trained)


def test_a_file_without_its_configuration_is_refused(tmp_path: Path) -> None:
    save_file({"unet.conv_in.lora_A.weight": torch.zeros(1)}, tmp_path / LORA_FILE)
    with pytest.raises(ValueError, match=r"does not state 'unet\.lora_alpha'"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("names", [("conv_in.lora_A.weight",), ("conv_in.lora_A.weight", "conv_in.bias")])
def test_a_file_with_other_tensors_than_pairs_is_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    metadata = {LORA_METADATA: json.dumps({"unet.r": 4, "unet.lora_alpha": 4})}
    save_file({f"unet.{name}": torch.zeros(1) for name in names}, tmp_path / LORA_FILE, metadata)
    with pytest.raises(ValueError, match=rf"{re.escape(names[-1].partition('.lora')[0])}.* Train it again"):
        read_adapter(tmp_path)


def test_a_file_with_both_spellings_is_refused(tmp_path: Path) -> None:
    """diffusers would leave one kind of layer out, so the gate has judged another network."""
    tensors = {"unet.conv_in.lora_A.weight": torch.zeros(1), "unet.mid.to_q.lora.down.weight": torch.zeros(1)}
    metadata = {LORA_METADATA: json.dumps({"unet.r": 4, "unet.lora_alpha": 4})}
    save_file(tensors, tmp_path / LORA_FILE, metadata)
    with pytest.raises(ValueError, match="in two ways"):
        read_adapter(tmp_path)
