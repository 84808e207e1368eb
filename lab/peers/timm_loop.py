"""timm's dataset, loader, augmentation and optimizer with the defaults of its train.py.

guide: those defaults (contiguous, four workers; on a GPU its prefetcher normalises there, and cuDNN's algorithms are
chosen by trial). best: --channels-last, no worker, for a GPU one a core. --bf16 is its --amp-dtype bfloat16.
"""

import contextlib

import common
import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2

asked, clock = common.arguments(), common.Clock()
best = asked.setting == "best"
torch.set_num_threads(asked.threads)
torch.backends.cudnn.benchmark = asked.device == "cuda"
images = create_dataset("", root=str(asked.data), split="train", is_training=True)
model = timm.create_model("resnet50", pretrained=False)
common.load_backbone(model, asked.weights)
model.reset_classifier(len({label for _, label in images.reader.samples}))
config = resolve_data_config({"input_size": (3, asked.size, asked.size)}, model=model)
loader = create_loader(
    images,
    input_size=config["input_size"],
    batch_size=asked.batch,
    is_training=True,
    no_aug=False,
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    hflip=0.5,
    color_jitter=0.4,
    interpolation="random",
    mean=config["mean"],
    std=config["std"],
    num_workers=common.workers(asked, 4),
    use_prefetcher=asked.device == "cuda",
    device=torch.device(asked.device),
    pin_memory=best and asked.device == "cuda",
)
layout = torch.channels_last if best else torch.contiguous_format
model = model.to(asked.device, memory_format=layout).train()
fused = {"fused": True} if asked.fused else {}
optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5, **fused)
criterion = torch.nn.CrossEntropyLoss()
seen = 0
for _ in range(asked.epochs):
    clock.begin()
    seen = 0
    for inputs, labels in loader:
        inputs, labels = inputs.to(asked.device), labels.to(asked.device)
        with torch.autocast(asked.device, torch.bfloat16) if asked.bf16 else contextlib.nullcontext():
            loss = criterion(model(inputs.to(memory_format=layout)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(labels)
    clock.end()
common.report("timm", clock, seen, ("timm", "torch"), loss=loss.item())
