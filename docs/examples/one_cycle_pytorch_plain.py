"""The same without upcycle: torch's OneCycleLR, whose `final_div_factor` divides the first rate, not the peak."""

import torch

data = torch.utils.data.TensorDataset(torch.randn(320, 8), torch.randint(2, (320,)))
model = torch.nn.Linear(8, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20, pct_start=0.25, final_div_factor=400)
for _ in range(2):
    for inputs, labels in torch.utils.data.DataLoader(data, 32, shuffle=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        print(f"{optimizer.param_groups[0]['lr']:.3e}")
        scheduler.step()
