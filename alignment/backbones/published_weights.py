"""Write the weights of the published bases into their catalogue: `python -m alignment.backbones.published_weights`."""

import json
from typing import Any

from alignment.backbones.meta_denoiser import meta_denoiser, weight_groups
from alignment.catalogues.published import PUBLISHED_FILE


def counted(family: str, config: dict[str, Any]) -> list[list[Any]]:
    """Return name, shape and number of the weights of a configuration."""
    return [[name, list(shape), count] for name, shape, count in weight_groups(meta_denoiser(family, config))]


def _catalogue_text(found: dict[str, Any]) -> str:
    """Return the catalogue as JSON with one group of weights a line."""
    entries = []
    for name, own in found.items():
        rest = [f"  {json.dumps(key)}: {json.dumps(own[key])}" for key in ("title", "family", "config")]
        weights = ",\n".join(f"   {json.dumps(group)}" for group in own["weights"])
        entries.append(
            " " + json.dumps(name) + ": {\n" + ",\n".join(rest) + ',\n  "weights": [\n' + weights + "\n  ]\n }"
        )
    return "{\n" + ",\n".join(entries) + "\n}\n"


def main() -> None:
    """Count the weights of every entry again."""
    found = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    for own in found.values():
        own["weights"] = counted(own["family"], own["config"])
    PUBLISHED_FILE.write_text(_catalogue_text(found), encoding="utf-8")


if __name__ == "__main__":
    main()
