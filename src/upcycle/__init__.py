"""upcycle: fine-tune pretrained image classifiers with the one-cycle policy.

Importing this package imports nothing heavy; its names are loaded on first use.

    run = upcycle.train("photos/", arch="resnet50", recipe="classic")
    run.history.plot()
    upcycle.load(run.path).predict("new.jpg").label
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upcycle.errors import UpcycleError as UpcycleError
    from upcycle.job.api import Comparison as Comparison
    from upcycle.job.api import Run as Run
    from upcycle.job.api import compare as compare
    from upcycle.job.api import train as train
    from upcycle.job.inference import Classifier as Classifier
    from upcycle.job.inference import Prediction as Prediction
    from upcycle.job.inference import load as load
    from upcycle.job.scan import Scan as Scan
    from upcycle.job.scan import scan as scan
    from upcycle.schedules import Constant as Constant
    from upcycle.schedules import OneCycle as OneCycle
    from upcycle.schedules import Ramp as Ramp
    from upcycle.schedules import RampSustainDecay as RampSustainDecay

__version__ = "0.1.0"

_HOMES = {
    "train": "upcycle.job.api",
    "compare": "upcycle.job.api",
    "scan": "upcycle.job.scan",
    "Run": "upcycle.job.api",
    "Comparison": "upcycle.job.api",
    "Scan": "upcycle.job.scan",
    "load": "upcycle.job.inference",
    "Classifier": "upcycle.job.inference",
    "Prediction": "upcycle.job.inference",
    "UpcycleError": "upcycle.errors",
    "OneCycle": "upcycle.schedules",
    "RampSustainDecay": "upcycle.schedules",
    "Constant": "upcycle.schedules",
    "Ramp": "upcycle.schedules",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'upcycle' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
