"""The model card: what a model was trained on, how good it is, where it errs and how to load it.

In the format of the Hugging Face Hub: a metadata block in YAML, then Markdown (Mitchell et al. 2019, arXiv 1810.03993).
"""

import json
from collections.abc import Iterable

from upcycle.bundle.description import INT8, MODEL, Description, Origin
from upcycle.errors import counted, shown
from upcycle.evaluation.results import Evaluation, Metric, RunEvaluation
from upcycle.reporting.text import calibration_text, share_text

METRICS = ("accuracy", "f1_macro", "precision_macro", "recall_macro", "log_loss")
"""Of an evaluation, those that the card has."""
_NAMES = {"f1_macro": "F1, macro", "precision_macro": "precision, macro", "recall_macro": "recall, macro"}
_TYPES = {"accuracy": "accuracy", "f1_macro": "f1", "precision_macro": "precision", "recall_macro": "recall"}
_MOST_MISTAKES = 10
_LIBRARIES = {"onnx": "onnx", "timm": "timm"}
"""The Hub's names of what loads each format."""


def card(made: Description, evaluation: RunEvaluation) -> str:
    """README.md of a bundle."""
    classes, scores = made.task.classes, evaluation[made.split]
    sections = [
        _metadata(made, scores),
        f"# {shown(made.model['arch'])} for {len(classes)} classes",
        f"Made by upcycle {made.origin.versions.get('upcycle')}. Classes: {', '.join(map(_plain, classes))}.",
        "## Use",
        _use(made),
        "## How good it is",
        *_scores(scores, made.split),
        *_calibration(evaluation, made.split),
        *_thresholds(made),
        "## Where it errs",
        *_mistakes(scores),
        "## Data",
        *_data(made.origin),
        "## Recipe",
        _recipe(made, evaluation),
        "## The export",
        *_proved(made),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(made: Description, evaluation: Evaluation) -> str:
    """The YAML block that the Hub reads; JSON is YAML, so strings are quoted as JSON quotes them."""
    lines = [
        "---",
        f"library_name: {_LIBRARIES[made.format]}",
        "pipeline_tag: image-classification",
        "tags: [image-classification, upcycle]",
        *([f"license: {made.origin.license.lower()}"] if made.origin.license else []),
        *([f"base_model: {json.dumps('timm/' + shown(made.model['arch']))}"] if made.origin.license else []),
        "model-index:",
        f"- name: {json.dumps(shown(made.model['arch']))}",
        "  results:",
        "  - task: {type: image-classification}",
        f'    dataset: {{name: "the user\'s own photos", type: private, split: {made.split}}}',
        "    metrics:",
        *(f"    - {{type: {kind}, value: {getattr(evaluation, name).value:.6f}}}" for name, kind in _TYPES.items()),
        "---",
    ]
    return "\n".join(lines)


def _use(made: Description) -> str:
    if made.format == "timm":
        return (
            "```python\n"
            "import timm\n"
            "from PIL import Image\n"
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # from the Hub: hf-hub:OWNER/NAME\n'
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
            'print(model(transform(Image.open("photo.jpg").convert("RGB"))[None]).softmax(1))\n'
            "```\n\n"
            "One logit per class, of one view of the image."
        )
    if made.batch:
        return f"`images`: float [N, 3, S, S], RGB. {made.preprocessing.describe()}."
    return (
        "```python\n"
        "import numpy as np, onnxruntime\n"
        "from PIL import Image, ImageOps\n"
        f'model = onnxruntime.InferenceSession("{MODEL}")\n'
        'photo = np.asarray(ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB"))\n'
        'print(model.run(["probabilities"], {"image": photo})[0][0])'
        f"  # {', '.join(map(shown, made.task.classes))}\n"
        "```\n\n"
        "Or `upcycle predict FOLDER photo.jpg`. The graph resizes, crops and normalizes: give the whole photo, "
        "upright, RGB, uint8, transparent parts on white."
    )


def _scores(found: Evaluation, split: str) -> list[str]:
    """Metrics with their intervals."""
    rows = [(_NAMES.get(name, name.replace("_", " ")), getattr(found, name)) for name in METRICS]
    if found.roc_auc is not None:
        rows.append(("ROC AUC", found.roc_auc))
    held = (
        "held out: they chose nothing" if split == "test" else "these images chose the model, so the scores flatter it"
    )
    return [
        f"{counted(found.n, f'{split} image')}, {held}. 95 % intervals.",
        _table(("metric", "value", "interval"), [(name, _number(one), _interval(one)) for name, one in rows]),
        _table(
            ("class", "images", "precision", "recall", "F1"),
            [
                (
                    _plain(name),
                    one.support,
                    *(f"{_number(m)} ({_interval(m)})" for m in (one.precision, one.recall, one.f1)),
                )
                for name, one in found.per_class.items()
            ],
        ),
        found.resolution,
    ]


def _calibration(evaluation: RunEvaluation, split: str) -> list[str]:
    known = evaluation.calibration
    text = calibration_text(known, split) if known is not None and split in known.after else ""
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _thresholds(made: Description) -> list[str]:
    """When the model answers, what is promised of that, and what it does on test images."""
    known = made.thresholds
    if known is None:
        return []
    promise = f", promised with {100 * known.confidence:g} % confidence" if known.confidence is not None else ""
    lines = [f"Chosen on {known.chosen_on} for {known.asked}{promise}: a probability of {known.rule.threshold:.4f}."]
    if known.test is not None:
        shares = [f"{name} {share_text(one)}" for name, one in known.test.items() if name != "cost"]
        lines.append(f"On {counted(known.test_images, 'test image')}: {', '.join(shares)}.")
    return ["## When it answers", " ".join(lines)]


def _mistakes(found: Evaluation) -> list[str]:
    pairs = found.confusions()
    if not pairs:
        return [f"No mistake on {counted(found.n, 'image')}; that is no promise for others."]
    rows = [(_plain(true), _plain(taken), count) for true, taken, count in pairs[:_MOST_MISTAKES]]
    return [_table(("true class", "taken for", "images"), rows)]


def _data(origin: Origin) -> list[str]:
    splits = [name for name in ("train", "val", "test") if any(name in counts for counts in origin.images.values())]
    rows = [(_plain(label), *(counts.get(name, 0) for name in splits)) for label, counts in origin.images.items()]
    return [
        _table(("class", *splits), rows),
        f"The run's splits.csv names every image with its sha256; its own is `{origin.splits}`.",
    ]


def _recipe(made: Description, evaluation: RunEvaluation) -> str:
    weights, origin = made.model["weights"], made.origin
    words = [
        f"Recipe `{origin.recipe}`, seed {origin.seed}, from weights {shown(weights['source'])}, sha256 "
        f"`{weights['sha256']}`, license {origin.license or 'not known'}.",
    ]
    if evaluation.choice is not None:
        words.append(f"{evaluation.choice.reason[0].upper()}{evaluation.choice.reason[1:]}.")
    if evaluation.refit:
        words.append("Its head then learned from the validation images as well.")
    return " ".join(words)


def _proved(made: Description) -> list[str]:
    lines = ["timm builds the same network from these files: its logits were compared."]
    if made.proof is not None:
        lines = [f"{made.proof.describe()}.", f"{made.proof.of_the_run()}.".replace("the run's", "The run's", 1)]
    if made.int8 is not None:
        lines.append(f"`{INT8}`: {made.int8.describe().removeprefix('int8: ')}.")
    names = ", ".join(f"{name} {version}" for name, version in made.origin.versions.items() if version)
    lines.append(f"Weights of the run: sha256 `{made.origin.weights}`. Made with {names}.")
    lines.append("`upcycle verify FOLDER` computes these numbers again from the predictions in `predictions.csv`.")
    return lines


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * lines[0].count(" | ") + "|---|", *lines[1:]])


def _number(metric: Metric) -> str:
    return f"{metric.value:.4f}"


def _interval(metric: Metric) -> str:
    return f"{metric.low:.4f} to {metric.high:.4f}"


def _plain(name: object) -> str:
    """A name on one line in which Markdown finds nothing of its own."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>()#+!|~$" else char for char in shown(name))
