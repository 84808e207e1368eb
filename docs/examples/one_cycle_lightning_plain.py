"""The same without upcycle: torch's OneCycleLR."""

import lightning
import torch


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Linear(8, 2)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        print(f"{self.optimizers().param_groups[0]['lr']:.3e}")
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, pct_start=0.25, final_div_factor=400)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


data = torch.utils.data.TensorDataset(torch.randn(320, 8), torch.randint(2, (320,)))
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(Classifier(), torch.utils.data.DataLoader(data, 32, shuffle=True))
