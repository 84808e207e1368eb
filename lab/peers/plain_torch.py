"""A plain PyTorch loop with torchvision's transforms, after PyTorch's transfer learning tutorial.

guide: contiguous, four loader workers. best: channels_last, fused SGD, no worker; for a GPU a worker a core,
page-locked copies that are not waited for, and cuDNN's algorithms chosen by trial.
"""

import contextlib

import common
import torch
from torchvision import datasets, models, transforms

asked, clock = common.arguments(), common.Clock()
best = asked.setting == "best"
torch.set_num_threads(asked.threads)
steps = [transforms.RandomResizedCrop(asked.size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
steps.append(transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
images = datasets.ImageFolder(asked.data, transforms.Compose(steps))
loader = torch.utils.data.DataLoader(
    images,
    asked.batch,
    shuffle=True,
    num_workers=(workers := common.workers(asked, 4)),
    persistent_workers=best and workers > 0,
    pin_memory=best and asked.device == "cuda",
)
torch.backends.cudnn.benchmark = best
# blocks that begin as the identity: random weights would blow up under fixed statistics
model = models.resnet50(weights=None, zero_init_residual=True)
common.load_backbone(model, asked.weights)
model.fc = torch.nn.Linear(model.fc.in_features, len(images.classes))
layout = torch.channels_last if best else torch.contiguous_format
model = model.to(asked.device, memory_format=layout).train()
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.train(asked.bn == "batch")
optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, fused=best or None)
criterion = torch.nn.CrossEntropyLoss()
for _ in range(asked.epochs):
    clock.begin()
    for inputs, labels in loader:
        inputs = inputs.to(asked.device, non_blocking=True).to(memory_format=layout)
        labels = labels.to(asked.device, non_blocking=True)
        with torch.autocast(asked.device, torch.bfloat16) if asked.bf16 else contextlib.nullcontext():
            loss = criterion(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clock.end()
common.report("PyTorch loop", clock, len(images), ("torch", "torchvision"), loss=loss.item())
