"""upcycle: fine-tune pretrained image classifiers with the one-cycle policy.

Importing this package imports nothing heavy; its names are loaded on first use.

    run = upcycle.train("photos/", arch="resnet50", recipe="classic")
    run.history.plot()
    upcycle.load(run.path).predict("new.jpg").label
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upcycle.comparison.results import Comparison as Comparison
    from upcycle.config import Config as Config
    from upcycle.data.dataset import Dataset as Dataset
    from upcycle.errors import ConfigError as ConfigError
    from upcycle.errors import DataError as DataError
    from upcycle.errors import DecodeError as DecodeError
    from upcycle.errors import DivergenceError as DivergenceError
    from upcycle.errors import ExportError as ExportError
    from upcycle.errors import NoRoomError as NoRoomError
    from upcycle.errors import RunError as RunError
    from upcycle.errors import StorageError as StorageError
    from upcycle.errors import UpcycleError as UpcycleError
    from upcycle.errors import WeightsError as WeightsError
    from upcycle.evaluation.results import Evaluation as Evaluation
    from upcycle.evaluation.results import Metric as Metric
    from upcycle.evaluation.thresholds import Thresholds as Thresholds
    from upcycle.history import History as History
    from upcycle.history import Row as Row
    from upcycle.jobs.api import train as train
    from upcycle.jobs.bundle import Bundle as Bundle
    from upcycle.jobs.bundle import open_bundle as open_bundle
    from upcycle.jobs.choose import choose as choose
    from upcycle.jobs.compare import compare as compare
    from upcycle.jobs.evaluate import evaluate as evaluate
    from upcycle.jobs.export import export as export
    from upcycle.jobs.find_lr import find_lr as find_lr
    from upcycle.jobs.plan import plan as plan
    from upcycle.jobs.predict import Classifier as Classifier
    from upcycle.jobs.predict import load as load
    from upcycle.jobs.prediction import Prediction as Prediction
    from upcycle.jobs.push import push as push
    from upcycle.jobs.run import Observer as Observer
    from upcycle.jobs.run import Run as Run
    from upcycle.jobs.run import report as report
    from upcycle.jobs.scan import Scan as Scan
    from upcycle.jobs.scan import scan as scan
    from upcycle.jobs.thresholds import thresholds as thresholds
    from upcycle.jobs.verify import verify as verify
    from upcycle.model.network import Network as Network
    from upcycle.schedules import Constant as Constant
    from upcycle.schedules import OneCycle as OneCycle
    from upcycle.schedules import RampSustainDecay as RampSustainDecay
    from upcycle.schedules import Rate as Rate
    from upcycle.schedules import Schedule as Schedule
    from upcycle.schedules import Step as Step
    from upcycle.schedules import WarmupStableDecay as WarmupStableDecay
    from upcycle.task import Task as Task
    from upcycle.training.loop import State as State
    from upcycle.training.loop import fit as fit
    from upcycle.training.rate_curve import LrFinding as LrFinding

__version__ = "0.1.0"

_PUBLIC = {
    "upcycle.comparison.results": "Comparison",
    "upcycle.config": "Config",
    "upcycle.data.dataset": "Dataset",
    "upcycle.errors": (
        "UpcycleError ConfigError DataError DecodeError WeightsError RunError DivergenceError StorageError NoRoomError "
        "ExportError"
    ),
    "upcycle.evaluation.results": "Evaluation Metric",
    "upcycle.evaluation.thresholds": "Thresholds",
    "upcycle.history": "History Row",
    "upcycle.jobs.api": "train",
    "upcycle.jobs.choose": "choose",
    "upcycle.jobs.compare": "compare",
    "upcycle.jobs.bundle": "Bundle open_bundle",
    "upcycle.jobs.evaluate": "evaluate",
    "upcycle.jobs.export": "export",
    "upcycle.jobs.find_lr": "find_lr",
    "upcycle.jobs.plan": "plan",
    "upcycle.jobs.predict": "load Classifier",
    "upcycle.jobs.prediction": "Prediction",
    "upcycle.jobs.push": "push",
    "upcycle.jobs.run": "report Run Observer",
    "upcycle.jobs.scan": "scan Scan",
    "upcycle.jobs.thresholds": "thresholds",
    "upcycle.jobs.verify": "verify",
    "upcycle.model.network": "Network",
    "upcycle.schedules": "Schedule Rate OneCycle RampSustainDecay WarmupStableDecay Step Constant",
    "upcycle.task": "Task",
    "upcycle.training.loop": "fit State",
    "upcycle.training.rate_curve": "LrFinding",
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'upcycle' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
