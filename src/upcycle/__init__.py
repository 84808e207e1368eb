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
    from upcycle.data.dataset import Dataset as Dataset
    from upcycle.errors import UpcycleError as UpcycleError
    from upcycle.jobs.api import Run as Run
    from upcycle.jobs.api import train as train
    from upcycle.jobs.compare import compare as compare
    from upcycle.jobs.predict import Classifier as Classifier
    from upcycle.jobs.predict import Prediction as Prediction
    from upcycle.jobs.predict import load as load
    from upcycle.jobs.scan import Scan as Scan
    from upcycle.jobs.scan import scan as scan
    from upcycle.schedules import Constant as Constant
    from upcycle.schedules import OneCycle as OneCycle
    from upcycle.schedules import RampSustainDecay as RampSustainDecay

__version__ = "0.1.0"

_HOMES = {
    "train": "upcycle.jobs.api",
    "compare": "upcycle.jobs.compare",
    "scan": "upcycle.jobs.scan",
    "Run": "upcycle.jobs.api",
    "Comparison": "upcycle.comparison.results",
    "Scan": "upcycle.jobs.scan",
    "load": "upcycle.jobs.predict",
    "Classifier": "upcycle.jobs.predict",
    "Prediction": "upcycle.jobs.predict",
    "Dataset": "upcycle.data.dataset",
    "UpcycleError": "upcycle.errors",
    "OneCycle": "upcycle.schedules",
    "RampSustainDecay": "upcycle.schedules",
    "Constant": "upcycle.schedules",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'upcycle' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
