"""What a report says: plain values for the page, each made from the values of a run's files alone.

Lists are cut at the limits below, always with a count of what is left out.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from upcycle.evaluation.predictions import Predictions
from upcycle.reporting.names import counted, occurring

GALLERY = 24
LISTED = 20
CLASSES = 50
EPOCHS = 200
CONFUSIONS = 8

Values = dict[str, Any]

METRICS = {
    "f1_macro": "F1 (macro)",
    "accuracy": "Accuracy",
    "precision_macro": "Precision (macro)",
    "recall_macro": "Recall (macro)",
    "roc_auc": "ROC AUC",
    "log_loss": "Log loss",
}


@dataclass(frozen=True)
class Cut:
    """The first items of a longer list, and how many are left out."""

    items: Sequence[Any]
    left_out: int

    @property
    def total(self) -> int:
        """How many there are altogether."""
        return len(self.items) + self.left_out


def cut(items: Sequence[Any], limit: int = LISTED) -> Cut:
    """`items`, or the first `limit` of them."""
    return Cut(items[:limit], max(len(items) - limit, 0))


@dataclass(frozen=True)
class Mistake:
    """A misclassified image: its classes by name, the probability given to each, and its content hash."""

    path: str
    sha256: str
    label: str
    predicted: str
    probability: float
    probability_of_label: float


# --------------------------------------------------------------------------------- numbers in words


def three(value: float | None) -> str:
    """A score with three decimals; a dash where it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share of one as a percentage with one decimal; a dash where it is unknown."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def clock(seconds: float | None) -> str:
    """A duration in its two largest units: 8.4 s, 2 min 31 s, 1 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def sentence(text: str) -> str:
    """A line that was told on the way, as a sentence."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names as a phrase: a, b and c; beyond `most`, the count of the others."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# ----------------------------------------------------------------------------------------- headline


def title(config: Values, model: Values | None) -> str:
    """What was trained on what, in a few words."""
    data = PurePath(str(config.get("data") or "")).name
    arch = (model or {}).get("arch") or config.get("arch") or "A classifier"
    return f"{arch} on {data}" if data else str(arch)


def lead(
    config: Values, model: Values | None, audit: Values | None, evaluation: Values | None, state: str = "finished"
) -> list[str]:
    """The run in sentences: what was trained on what, and how well it did."""
    sentences = []
    if model and audit:
        sentences.append(_trained(config, model, audit, evaluation, state))
    test = (evaluation or {}).get("test")
    if test:
        accuracy, f1 = test["accuracy"], test["f1_macro"]
        right = sum(row[index] for index, row in enumerate(test["confusion"]))
        sentences.append(
            f"It gets {right:,} of {counted(test['n'], 'test image')} right. Its accuracy is "
            f"{percent(accuracy['value'])}, and with 95 % confidence between {percent(accuracy['low'])} and "
            f"{percent(accuracy['high'])}; its test F1 is {three(f1['value'])}, between {three(f1['low'])} and "
            f"{three(f1['high'])}."
        )
    if not test and without_test(audit):
        sentences += _untested((evaluation or {}).get("val"))
    folds = (evaluation or {}).get("folds")
    if folds:
        scores = [three(score) for score in folds["f1_macro"]]
        sentences.append(
            f"Each image was tested by the one of {len(scores)} models that had not seen it. Their test F1 by fold: "
            f"{listed(scores, most=50)} (mean {three(folds['mean'])}, standard deviation {three(folds['deviation'])})."
        )
    return sentences


def without_test(audit: Values | None) -> bool:
    """Whether the images were split without a test set."""
    test = (audit or {}).get("splits", {}).get("test")
    return bool(test) and not any(test.values())


def _untested(val: Values | None) -> list[str]:
    """That there is no test set, and what the validation images say once they do."""
    said = ["No test set: test_fraction is 0, so nothing here is measured on images that chose nothing."]
    if val:
        accuracy, f1 = val["accuracy"], val["f1_macro"]
        said.append(
            f"Of {counted(val['n'], 'validation image')}, which chose the model and so flatter it, the accuracy is "
            f"{percent(accuracy['value'])} and the F1 {three(f1['value'])}."
        )
    return said


def _trained(config: Values, model: Values, audit: Values, evaluation: Values | None, state: str) -> str:
    now = "was" if evaluation else "is being" if state == "running" else "was being"
    source = str(model.get("weights", {}).get("source") or "")
    images = sum(audit["splits"].get("train", {}).values())
    classes = list(audit["classes"])
    what = f"{counted(images, 'image')} of {counted(len(classes), 'class', 'classes')}"
    if source.startswith("none") or config.get("weights") == "none":
        how = f"{model['arch']} {now} trained from random weights"
    elif ((evaluation or {}).get("choice") or {}).get("chosen") == "probe" or config.get("epochs") == 0:
        how = f"On the frozen features of {model['arch']}, a linear classifier {now} fitted"
    else:
        how = f"A pretrained {model['arch']} {now} fine-tuned"
    return f"{how} on {what}: {listed(classes)}."


def tiles(evaluation: Values | None, status: Values) -> list[Values]:
    """The headline numbers, each with its interval as positions on a scale."""
    found: list[Values] = []
    test = (evaluation or {}).get("test")
    if test:
        wrong = test["n"] - sum(row[index] for index, row in enumerate(test["confusion"]))
        scale = floor([test["f1_macro"], test["accuracy"]])
        for name, words, shown in (("f1_macro", "Test F1", three), ("accuracy", "Test accuracy", percent)):
            metric = test[name]
            note = f"{shown(metric['low'])} to {shown(metric['high'])}"
            strip = place(metric, scale)
            found.append({"name": words, "value": shown(metric["value"]), "note": note, "strip": strip})
        found.append({"name": "Mistakes", "value": f"{wrong:,}", "note": f"of {counted(test['n'], 'test image')}"})
    if status.get("seconds"):
        note = "for the whole run" if status.get("state") == "finished" else "so far"
        found.append({"name": "Time", "value": clock(status["seconds"]), "note": note})
    return found


def floor(metrics: Iterable[Values]) -> float:
    """The left end of a scale up to 1 that holds every interval: a multiple of 0.1, at most 0.9."""
    ends = [end for metric in metrics for end in (metric["low"], metric["value"]) if end is not None]
    return min(math.floor(10 * min(ends, default=0.0) + 1e-9) / 10, 0.9)


def place(metric: Values, low: float) -> Values | None:
    """Where an interval and its value lie between `low` and 1, in percent; None where they are unknown."""
    if None in (metric["low"], metric["high"], metric["value"]):
        return None
    left, dot, right = (100 * (metric[end] - low) / (1 - low) for end in ("low", "value", "high"))
    return {"left": round(left, 2), "width": round(right - left, 2), "dot": round(dot, 2), "from": f"{low:.1f}"}


# ------------------------------------------------------------------------------------------- scores


def choice(evaluation: Values | None) -> Values | None:
    """Probe against fine-tuning, row by row on one scale; None where the run had no probe.

    The chosen model's scores are `test`; the other's are `probe_test` or `finetune_test`. Without a test set they are
    those of the validation images.
    """
    split = "test" if "test" in (evaluation or {}) else "val"
    probe = (evaluation or {}).get(f"probe_{split}")
    made = (evaluation or {}).get("choice")
    if evaluation is None or not probe:
        return None
    chosen = (made or {}).get("chosen")
    tuned = evaluation.get(f"finetune_{split}") or (evaluation.get(split) if chosen != "probe" else None)
    models = [("Frozen probe", "probe", probe), ("Fine-tuning", "finetune", tuned)]
    scale = floor(m[key] for _, _, m in models if m for key in ("f1_macro", "accuracy"))
    rows = [
        {"name": name, "chosen": key == chosen, "scores": scores, "strip": place(scores["f1_macro"], scale)}
        for name, key, scores in models
        if scores
    ]
    return {"rows": rows, "made": made, "split": {"test": "Test", "val": "Validation"}[split]}


def metric_rows(evaluation: Values) -> list[Values]:
    """Every metric with its test and, where there, its validation value."""
    test, val = evaluation.get("test") or {}, evaluation.get("val") or {}
    return [
        {"name": words, "test": test.get(key), "val": val.get(key), "loss": key == "log_loss"}
        for key, words in METRICS.items()
        if test.get(key)
    ]


def chosen_by(config: Values, history: Sequence[Values]) -> str:
    """What the validation images have chosen."""
    if not history:
        return "the strengths of the probe"
    probed = config.get("probe", config.get("head_epochs"))  # by earlier versions trained for epochs
    return "the probe, the best epoch and the model" if probed else "the best epoch"


def class_rows(test: Values) -> Cut:
    """Scores by class in the data's order; of more than 50 classes those with the lowest F1."""
    there = occurring(test)
    nothing = dict.fromkeys(("value", "low", "high"))
    rows = [
        {
            "name": name,
            **(scores if name in there else {**scores, "precision": nothing, "recall": nothing, "f1": nothing}),
        }
        for name, scores in test["per_class"].items()
    ]
    if len(rows) > CLASSES:
        rows.sort(key=lambda row: (row["name"] not in there, row["f1"]["value"] or 0.0))
    return cut(rows, CLASSES)


def confusions(test: Values) -> Cut:
    """Pairs of true and predicted class by how often they were confused."""
    counts = np.asarray(test["confusion"])
    pairs = [(int(counts[row, column]), row, column) for row, column in np.argwhere(counts) if row != column]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    names, totals = test["classes"], counts.sum(axis=1)
    rows = [
        {"label": names[row], "predicted": names[column], "count": count, "share": count / int(totals[row])}
        for count, row, column in pairs
    ]
    return cut(rows, CONFUSIONS)


def mistakes(predictions: Predictions) -> Cut:
    """Misclassified images, the most confident first."""
    probabilities, predicted = predictions.probabilities(), predictions.predicted()
    wrong = np.flatnonzero(predicted != predictions.labels)
    order = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
    found = [
        Mistake(
            path=predictions.paths[at],
            sha256=predictions.hashes[at],
            label=predictions.classes[predictions.labels[at]],
            predicted=predictions.classes[predicted[at]],
            probability=float(probabilities[at, predicted[at]]),
            probability_of_label=float(probabilities[at, predictions.labels[at]]),
        )
        for at in order[:GALLERY]
    ]
    return Cut(found, len(order) - len(found))


# --------------------------------------------------------------------------------------------- data


def split_rows(audit: Values) -> Values:
    """Images of each class in each split, with totals; of more than 50 classes the largest."""
    untested = without_test(audit)
    names = [name for name in ("train", "val", "test") if name in audit["splits"] and not (untested and name == "test")]
    rows = []
    for label, images in sorted(
        audit["classes"].items(), key=lambda item: -item[1] * (len(audit["classes"]) > CLASSES)
    ):
        counts = [audit["splits"][name].get(label, 0) for name in names]
        rows.append({"name": label, "counts": counts, "total": images})
    totals = [sum(audit["splits"][name].values()) for name in names]
    largest = max((row["total"] for row in rows), default=1)
    return {"splits": names, "rows": cut(rows, CLASSES), "totals": totals, "total": audit["images"], "largest": largest}


def problems(audit: Values) -> Values:
    """What is wrong with the data; every list cut, long groups of duplicates too."""
    leaks = audit.get("leaks") or []
    leaked = {path for group in leaks for path in _paths(group)}
    together = [group for group in audit.get("duplicates") or [] if not leaked & set(_paths(group))]
    return {
        "warnings": cut(audit.get("warnings") or []),
        "quarantined": cut(audit.get("quarantined") or []),
        "conflicts": cut([cut(group, 6) for group in audit.get("conflicts") or []]),
        "leaks": cut([cut(group, 6) for group in leaks]),
        "duplicates": cut([cut(group, 6) for group in together]),
    }


def _paths(group: Sequence[Any]) -> list[str]:
    return [str(item["path"] if isinstance(item, dict) else item) for item in group]


# -------------------------------------------------------------------------------- epochs, settings


def epoch_rows(history: Sequence[Values], timings: Sequence[Values]) -> Cut:
    """Each epoch with its seconds and images per second, the last 200 of them."""
    clocks = {(row.get("phase"), row.get("epoch")): row for row in timings}
    rows = [{**row, "timing": clocks.get((row["phase"], row["epoch"]), {})} for row in history]
    return Cut(rows[-EPOCHS:], max(len(rows) - EPOCHS, 0))


def settings(values: Values) -> list[tuple[str, str]]:
    """Settings as names and texts, nested ones under both names, long texts cut at 300 characters."""
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += [(f"{name} {inner}", text) for inner, text in settings(value)]
        elif value not in (None, "", []):
            rows.append((name, setting(value)))
    return rows


def from_home(path: str) -> str:
    """A path below the home of whoever makes the page, from there: pages are mailed."""
    try:
        home = str(Path.home())
    except RuntimeError:  # nobody's
        return path
    return f"~{path[len(home) :]}" if path.startswith(f"{home}/") and len(home) > 1 else path


def setting(value: Any) -> str:
    """A setting as text: yes and no, numbers without needless digits, long texts cut at 300 characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    text = ", ".join(setting(item) for item in value) if isinstance(value, list) else from_home(str(value))
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text) - 300:,} characters more)"
