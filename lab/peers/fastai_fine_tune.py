"""fastai's `vision_learner(...).fine_tune(epochs)`, as its book trains one: one frozen epoch, then all layers.

guide: fp32, Resize(460) and aug_transforms. best: channels_last, no loader worker, with --bf16 autocast. The seed is
of torch, numpy and random alike.
DATA has train, val and test folders.
"""

import common
import fastai_learner as ours
import torch
from fastai.vision.all import get_image_files, set_seed
from sklearn.metrics import f1_score

asked = common.arguments()
set_seed(asked.seed)
learner = ours.learner(asked, train="train", valid="val")
with learner.no_bar(), learner.no_logging():
    learner.fine_tune(asked.epochs)
    names = list(learner.dls.vocab)
    scores = {}
    for split in ("val", "test"):
        files = get_image_files(asked.data / split)
        probabilities, _ = learner.get_preds(dl=learner.dls.test_dl(files, num_workers=common.workers(asked, 1)))
        labels = torch.tensor([names.index(file.parent.name) for file in files])
        scores[split] = f1_score(labels, probabilities.argmax(1), average="macro")
common.scored("fastai", scores, ("fastai", "torch"), epochs=asked.epochs)
