"""Hugging Face's `Trainer` on `ResNetForImageClassification`, after its image classification guide.

guide: no loader workers, as the Trainer's defaults are. best: channels_last, no worker either, for a GPU one a core
that stays, cuDNN's algorithms chosen by trial, and a loss that is not looked at after each update. The weights are
random: the hub's names differ, and speed does not depend on them.
"""

import common
import torch
from torchvision import datasets, transforms
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments

asked, clock = common.arguments(), common.Clock()
best = asked.setting == "best"
torch.set_num_threads(asked.threads)
torch.backends.cudnn.benchmark = best
steps = [transforms.RandomResizedCrop(asked.size), transforms.ToTensor()]
steps.append(transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
images = datasets.ImageFolder(asked.data, transforms.Compose(steps))
model = ResNetForImageClassification(ResNetConfig(num_labels=len(images.classes)))
layout = torch.channels_last if best else torch.contiguous_format
model = model.to(memory_format=layout)


def collate(examples: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    pixels = torch.stack([pixels for pixels, _ in examples]).contiguous(memory_format=layout)
    return {"pixel_values": pixels, "labels": torch.tensor([label for _, label in examples])}


class EpochClock(TrainerCallback):
    """Times each epoch."""

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        clock.begin()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        clock.end()


settings = TrainingArguments(
    output_dir="/tmp/hf-trainer-benchmark",
    per_device_train_batch_size=asked.batch,
    num_train_epochs=asked.epochs,
    learning_rate=5e-5,
    warmup_steps=1,
    remove_unused_columns=False,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    logging_nan_inf_filter=not best,
    use_cpu=asked.device == "cpu",
    bf16=asked.bf16,
    dataloader_num_workers=(workers := common.workers(asked, 0)),
    dataloader_persistent_workers=best and workers > 0,
)
trainer = Trainer(model, settings, train_dataset=images, data_collator=collate, callbacks=[EpochClock()])
result = trainer.train()
common.report("HF Trainer", clock, len(images), ("transformers", "torch"), loss=result.training_loss)
