"""Training loops of each framework that leave behind the rates by which the real optimizer updated.

The gradient of update t is 1 for weight t and 0 for every other, so plain SGD from zero leaves minus the rate of
update t in weight t: what is read is what the optimizer did. Torch's optimizers are also asked as they update.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upcycle.adapters.pytorch import Scheduler
from upcycle.schedules import Schedule


@dataclass(frozen=True)
class Run:
    """How many updates, of how many micro-batches each, interrupted after which update (0: never), in which folder."""

    updates: int
    micro: int
    resume_after: int
    folder: Path

    @property
    def parts(self) -> list[tuple[int, int]]:
        """First update and the one after the last of each process."""
        cut = self.resume_after
        return [(0, cut), (cut, self.updates)] if cut else [(0, self.updates)]

    def batches(self, first: int, last: int) -> Iterator[np.ndarray]:
        """One-hot rows: weight t has the gradient of update t."""
        for update in range(first, last):
            for _ in range(self.micro):
                yield np.eye(self.updates, dtype=np.float32)[[update]]


Loop = Callable[[Schedule, Run], list[tuple[float, float | None]]]
"""Gives the rate and, where the framework schedules it, the momentum of every update."""


def _watched(optimizer: torch.optim.Optimizer, seen: list[tuple[float, float | None]]) -> torch.optim.Optimizer:
    def note(asked: torch.optim.Optimizer, *_: object) -> None:
        group = asked.param_groups[0]
        seen.append((float(group["lr"]), group["betas"][0] if "betas" in group else group["momentum"]))

    optimizer.register_step_pre_hook(note)
    return optimizer


def pytorch(schedule: Schedule, run: Run) -> list[tuple[float, float | None]]:
    seen: list[tuple[float, float | None]] = []
    saved: Any = None
    weights = torch.zeros(run.updates, requires_grad=True)
    for first, last in run.parts:
        optimizer = _watched(torch.optim.SGD([weights], lr=0.5, momentum=0.5), seen)
        scheduler = Scheduler(optimizer, schedule)
        if saved:
            torch.save(saved, run.folder / "state.pt")
            loaded = torch.load(run.folder / "state.pt", weights_only=True)
            optimizer.load_state_dict(loaded["optimizer"])
            scheduler.load_state_dict(loaded["scheduler"])
        for at, batch in enumerate(run.batches(first, last), 1):
            (torch.from_numpy(batch)[0] @ weights / run.micro).backward()
            if at % run.micro == 0:
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
        saved = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    return seen


def lightning(schedule: Schedule, run: Run) -> list[tuple[float, float | None]]:
    import lightning as L

    seen: list[tuple[float, float | None]] = []

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(run.updates, 1, bias=False)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return self.linear(batch[0]).mean()

        def configure_optimizers(self) -> Any:
            optimizer = _watched(torch.optim.AdamW(self.parameters(), lr=0.5), seen)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": Scheduler(optimizer, schedule), "interval": "step"},
            }

    data = torch.utils.data.TensorDataset(torch.from_numpy(np.concatenate([*run.batches(0, run.updates)])))
    checkpoint: Path | None = None
    for _, last in run.parts:
        trainer = L.Trainer(
            max_steps=last,
            accumulate_grad_batches=run.micro,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=run.folder,
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(data), ckpt_path=checkpoint, weights_only=True)
        checkpoint = run.folder / "last.ckpt"
        trainer.save_checkpoint(checkpoint)
    return seen


def transformers(schedule: Schedule, run: Run) -> list[tuple[float, float | None]]:
    import transformers as hf

    seen: list[tuple[float, float | None]] = []

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(run.updates, 1, bias=False)

        def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.linear(inputs).mean()}

    class Stop(hf.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            if state.global_step == run.resume_after:
                control.should_save = control.should_training_stop = True
            return control

    rows = [{"inputs": row[0]} for row in run.batches(0, run.updates)]
    for first, _ in run.parts:
        model = Model()
        optimizer = _watched(torch.optim.AdamW(model.parameters(), lr=0.5), seen)
        arguments = hf.TrainingArguments(
            output_dir=str(run.folder),
            max_steps=run.updates,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=run.micro,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = hf.Trainer(
            model,
            arguments,
            train_dataset=rows,
            optimizers=(optimizer, Scheduler(optimizer, schedule)),
            callbacks=[] if first else [Stop()],
        )
        trainer.train(resume_from_checkpoint=str(run.folder / f"checkpoint-{first}") if first else None)
    return seen


def keras(schedule: Schedule, run: Run) -> list[tuple[float, float | None]]:
    import keras

    from upcycle.adapters.keras import LearningRate

    micro = run.micro if run.micro > 1 else None
    rate = LearningRate(schedule, run.updates - 1, gradient_accumulation_steps=micro)
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((run.updates,)), layer])
    model.compile(keras.optimizers.SGD(rate, gradient_accumulation_steps=micro), loss=mean_of_outputs)
    for first, last in run.parts:
        if first:
            model.save(run.folder / "model.keras")
            model = keras.saving.load_model(run.folder / "model.keras", {"mean_of_outputs": mean_of_outputs})
        rows = np.concatenate([*run.batches(first, last)])
        model.fit(rows, np.zeros(len(rows)), batch_size=1, shuffle=False, verbose=0)
    return [(-float(weight), None) for weight in model.get_weights()[0][:, 0]]


def mean_of_outputs(_: Any, outputs: Any) -> Any:
    import keras

    return keras.ops.mean(outputs)


def optax(schedule: Schedule, run: Run) -> list[tuple[float, float | None]]:
    import jax
    import jax.numpy as jnp
    import optax

    from upcycle.adapters.optax import learning_rate, momentum

    length = run.updates - 1
    inner = optax.inject_hyperparams(optax.adamw)(learning_rate(schedule, length), b1=momentum(schedule, length))
    plain = optax.sgd(learning_rate(schedule, length))
    optimizers = [optax.MultiSteps(one, run.micro).gradient_transformation() for one in (plain, inner)]
    weights, states = jnp.zeros(run.updates), [one.init(jnp.zeros(run.updates)) for one in optimizers]
    seen: list[float] = []
    for first, last in run.parts:
        if first:  # what a checkpoint holds: arrays alone
            arrays, tree = jax.tree.flatten(states)
            states = jax.tree.unflatten(tree, [jnp.asarray(np.asarray(array)) for array in arrays])
        steps = [jax.jit(one.update) for one in optimizers]
        for at, batch in enumerate(run.batches(first, last), 1):
            gradient = jnp.asarray(batch[0])
            updates, states[0] = steps[0](gradient, states[0], weights)
            _, states[1] = steps[1](gradient, states[1], weights)
            weights = optax.apply_updates(weights, updates)
            if at % run.micro == 0:
                seen.append(float(states[1].inner_opt_state.hyperparams["b1"]))
    return [(-float(weight), beta) for weight, beta in zip(weights, seen, strict=True)]


LOOPS: dict[str, tuple[Loop, list[str]]] = {
    "pytorch": (pytorch, []),
    "lightning": (lightning, ["lightning"]),
    "transformers": (transformers, ["transformers", "accelerate"]),
    "keras": (keras, ["keras"]),
    "optax": (optax, ["optax", "jax"]),
}
"""Each framework's loop and the packages that it needs."""
