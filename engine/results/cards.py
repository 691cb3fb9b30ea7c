"""What a hub needs beside a run's files: timm's `config.json`, a model card, a data card."""

from __future__ import annotations

from diffmix.classifier.model import Classifier, bare_model, load_description
from diffmix.config import Config
from diffmix.datasets.class_names import spoken
from diffmix.report.headline import headline
from diffmix.storage import Folder

TIMM_FILE, CARD_FILE = "config.json", "README.md"
_OF_THE_HUB = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "tag")
_MOST_NAMES = 500


def timm_config(description: Classifier) -> dict | None:
    """`config.json` with which `timm.create_model("local-dir:FOLDER", pretrained=True)` gives this
    classifier, and its transforms. None for a cosine head, which timm does not know.
    """
    import timm

    if description.cosine_scale is not None:
        return None
    model = bare_model(description)
    side = description.resolution
    default = timm.get_pretrained_cfg(description.model_name, allow_unregistered=True)
    usual = {k: v for k, v in default.to_dict().items() if k not in _OF_THE_HUB} if default else {}
    settings: dict = {
        **usual,
        "num_classes": len(description.class_names),
        "input_size": [3, side, side],
        "crop_pct": side / (description.resize or side),
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": description.mean,
        "std": description.std,
        "label_names": description.class_names,
    }
    for name in ("test_input_size", "test_crop_pct", "label_descriptions"):
        settings.pop(name, None)
    found: dict = {
        "architecture": description.model_name,
        "num_classes": len(description.class_names),
        "num_features": getattr(model, "num_features", None),
        "pretrained_cfg": settings,
    }
    if default and default.fixed_input_size and default.input_size[-1] != side:
        found["model_args"] = {"img_size": side}
    return found


def write_timm_config(classifier: Folder) -> None:
    """Write `config.json` beside a classifier; nothing where timm cannot load it."""
    import json

    found = timm_config(load_description(classifier))
    if found is not None:
        text = json.dumps(found, indent=2, ensure_ascii=False)
        classifier.write(TIMM_FILE, text.encode())


def model_card(config: Config, summary: dict, description: Classifier) -> str:
    """The model card of a run's classifier, in the hub's Markdown. The user chooses a license."""
    figures = [f"| {name} | {value} |" for name, value in headline(summary)]
    names = [spoken(name) for name in description.class_names]
    kind = config.data.superclass or "things"
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return "\n".join(
        [
            "---",
            "library_name: timm",
            "pipeline_tag: image-classification",
            "tags: [timm, image-classification, diff-mix, synthetic-data]",
            "# license: yours to choose; those of the images and of the base model may bind you",
            "---",
            "",
            f"# {description.model_name}, {len(names)} classes of {kind}",
            "",
            "A classifier that was trained on real images and on *synthetic* ones: inter-class "
            "mixes by [Diff-Mix](https://arxiv.org/abs/2403.19600).",
            "",
            "| | |",
            "| --- | --- |",
            f"| real images | `{config.data.train}` |",
            f"| base model of the mixes | `{config.model.base}` |",
            f"| strategy, strength, gamma | `{config.mix.strategy}`, "
            f"{' '.join(str(one) for one in config.mix.strength)}, {config.mix.gamma} |",
            f"| share of mixes in a batch | {config.mix.synthetic_p} |",
            *figures,
            "",
            "```python",
            "import timm",
            "",
            'model = timm.create_model("local-dir:FOLDER", pretrained=True)',
            "```",
            "",
            f"Classes: {', '.join(names[:_MOST_NAMES])}{more}.",
            "",
        ]
    )


def data_card(config: Config, count: int, class_names: list[str]) -> str:
    """The data card of exported mixes, in the hub's Markdown. The license is left to the user."""
    return "\n".join(
        [
            "---",
            "task_categories: [image-classification]",
            "tags: [synthetic, diff-mix]",
            f"size_categories: [{_size(count)}]",
            "# license: yours to choose; those of the images and of the base model may bind you",
            "---",
            "",
            f"# {count} synthetic mixes of {len(class_names)} classes",
            "",
            "**Every image here is synthetic.** A diffusion model made it by translating a real "
            "image of one class into another ([Diff-Mix](https://arxiv.org/abs/2403.19600)). "
            "Columns `source`, `target` and `strength` say which and how far; `source_id` names "
            "the real image, which is not part of this data set.",
            "",
            "| | |",
            "| --- | --- |",
            f"| real images | `{config.data.train}` |",
            f"| base model | `{config.model.base}` |",
            f"| strategy | `{config.mix.strategy}` |",
            "",
        ]
    )


def _size(count: int) -> str:
    """The hub's class of sizes."""
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")]
    bounds += [(1_000_000, "100K<n<1M")]
    return next((name for bound, name in bounds if count < bound), "n>1M")
