"""The nearest without upcycle: the Trainer's cosine with warm-up, which starts and ends at 0 and leaves the momentum."""

import torch
import transformers


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Linear(8, 2)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": torch.nn.functional.cross_entropy(self.model(inputs), labels)}


data = [{"inputs": torch.randn(8), "labels": torch.randint(2, ())} for _ in range(320)]
arguments = transformers.TrainingArguments(
    "out",
    max_steps=20,
    learning_rate=0.01,
    lr_scheduler_type="cosine",
    warmup_steps=5,
    per_device_train_batch_size=32,
    logging_steps=1,
    use_cpu=True,
    report_to="none",
)
transformers.Trainer(Classifier(), arguments, train_dataset=data).train()
