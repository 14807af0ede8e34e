"""The shapes project, shortened: few steps and prompts, and a gate that such a short evaluation can pass."""

from pathlib import Path

from embedded_world import ROOT, shapes_project

NUM_PROMPTS = 66
NAME = "shapes"

_CHANGES = {
    'recipe = "diffusion_dpo_shapes"': (
        'recipe = "diffusion_dpo_shapes"\noverrides = ["steps=50", "optimiser.learning_rate=5e-5"]'
    ),
    f'prompts = "{ROOT}/examples/shapes/prompts.tsv"': 'prompts = "prompts.tsv"',
    "seeds = [0, 1]\n": "seeds = [0, 1]\nconfidence = 0.55\n",
    "sampler = { steps = 20,": "sampler = { steps = 8,",
    "minimum_prompts = 100": "minimum_prompts = 10",
    "required_judges = 2": "required_judges = 1\nveto = false",
    "caption_match = { margin = 1.0 }": "caption_match = { margin = 100.0 }",
    "diversity = { relative_margin = 0.25 }": "diversity = { relative_margin = 1.0 }",
    "minimum_prompts = 25\n": "minimum_prompts = 1000\n",
    "effect = 0.3": "effect = 2.0",
    "checkpoint_every_steps = 25": "checkpoint_every_steps = 10",
    "sample_every_steps = 50": "sample_every_steps = 20",
}


def write_project(folder: Path) -> Path:
    """Write the project and its prompts into a folder; return the project file."""
    text = shapes_project()
    for old, new in _CHANGES.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    text += '\n[prices]\ncurrency = "EUR"\ncpu_hour = 1.0\n'
    head, *prompts = (ROOT / "examples/shapes/prompts.tsv").read_text().splitlines()
    every = len(prompts) // NUM_PROMPTS
    folder.mkdir(parents=True)
    (folder / "prompts.tsv").write_text("\n".join([head, *prompts[::every]]) + "\n")
    path = folder / f"{NAME}.toml"
    path.write_text(text)
    return path
