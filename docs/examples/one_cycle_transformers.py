"""One-cycle in transformers' Trainer: the optimizer and its scheduler are passed in."""

import torch
import transformers

from upcycle import OneCycle
from upcycle.adapters.pytorch import Scheduler


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Linear(8, 2)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": torch.nn.functional.cross_entropy(self.model(inputs), labels)}


data = [{"inputs": torch.randn(8), "labels": torch.randint(2, ())} for _ in range(320)]
model = Classifier()
optimizer = torch.optim.AdamW(model.parameters())
scheduler = Scheduler(optimizer, OneCycle(0.01, total_steps=20))
arguments = transformers.TrainingArguments(
    "out", max_steps=20, per_device_train_batch_size=32, logging_steps=1, use_cpu=True, report_to="none"
)
transformers.Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, scheduler)).train()
