"""timm's features of the frozen network and scikit-learn's logistic regression, as people chain the two by hand.

guide: fp32 as timm's models come. best: channels_last and bf16 (with --bf16), autocast entered once for all batches, so
that it converts the weights once, and no loader worker, which on two cores takes more from the network than it brings.
The strength of the regularisation is chosen on the validation images, over 7 powers of ten, each fit going on from the
one before. Nothing in it is random. DATA has train, val and test folders.
"""

import copy
import time

import common
import numpy as np
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from timm.data import create_dataset, create_loader, resolve_data_config

asked = common.arguments()
best = asked.setting == "best"
torch.set_num_threads(asked.threads)
model = timm.create_model("resnet50", pretrained=False)
common.load_backbone(model, asked.weights)
model.reset_classifier(0)
layout = torch.channels_last if best else torch.contiguous_format
model = model.to(memory_format=layout).eval()
config = resolve_data_config({"input_size": (3, asked.size, asked.size)}, model=model)


def features(split: str) -> tuple[np.ndarray, np.ndarray]:
    """[n, 2048] and labels [n] of a split."""
    images = create_dataset("", root=str(asked.data / split), class_map=classes)
    loader = create_loader(
        images,
        input_size=config["input_size"],
        batch_size=asked.batch,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        num_workers=common.workers(asked, 1) if not best or asked.workers is not None else 0,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )
    rows, labels = [], []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=asked.bf16):
        for inputs, some in loader:
            rows.append(model(inputs.to(memory_format=layout)).float())
            labels.append(some)
    return torch.cat(rows).numpy(), torch.cat(labels).numpy()


classes = {name: at for at, name in enumerate(sorted(path.name for path in (asked.data / "train").iterdir()))}
seen = {split: features(split) for split in ("train", "val", "test")}
extracted = time.perf_counter() - common.BEGAN
tried = []
fitting = LogisticRegression(max_iter=2000, warm_start=True)
for strength in np.logspace(-5, 1, 7):
    fitting.set_params(C=strength).fit(*seen["train"])
    tried.append((log_loss(seen["val"][1], fitting.predict_proba(seen["val"][0])), strength, copy.deepcopy(fitting)))
_, strength, classifier = min(tried, key=lambda one: one[0])
scores = {
    split: f1_score(seen[split][1], classifier.predict(seen[split][0]), average="macro") for split in ("val", "test")
}
common.scored("timm + scikit-learn", scores, ("timm", "torch", "scikit-learn"), features=extracted, C=strength)
