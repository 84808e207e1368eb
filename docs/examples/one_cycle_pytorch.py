"""One-cycle in a torch loop: the scheduler sets the rate and the momentum of every parameter group."""

import torch

from upcycle import OneCycle
from upcycle.adapters.pytorch import Scheduler

data = torch.utils.data.TensorDataset(torch.randn(320, 8), torch.randint(2, (320,)))
model = torch.nn.Linear(8, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = Scheduler(optimizer, OneCycle(0.1, total_steps=20))
for _ in range(2):
    for inputs, labels in torch.utils.data.DataLoader(data, 32, shuffle=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        print(f"{optimizer.param_groups[0]['lr']:.3e}")
        scheduler.step()
