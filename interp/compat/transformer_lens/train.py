"""`transformer_lens.train`: a loop that trains a model on rows of tokens. `interp.training` has more."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from interp.compat.transformer_lens.checks import ensure
from interp.compat.transformer_lens.utils import get_device
from interp.errors import check_choice
from interp.progress import shown


@dataclass
class HookedTransformerTrainConfig:
    """How it is trained: `save_every` and `print_every` count steps, and `max_steps` is the last step of an epoch."""

    num_epochs: int
    batch_size: int
    lr: float = 1e-3
    seed: int = 0
    momentum: float = 0.0
    max_grad_norm: float | None = None
    weight_decay: float | None = None
    optimizer_name: str = "Adam"
    device: Any = None
    warmup_steps: int = 0
    save_every: int | None = None
    save_dir: str | None = None
    wandb: bool = False
    wandb_project_name: str | None = None
    print_every: int | None = 50
    max_steps: int | None = None


def train(model: Any, config: HookedTransformerTrainConfig, dataset: Any) -> Any:
    """Train on next tokens, and return the model. Items of the data set are {"tokens": [pos]}.

    The rate rises from 0 over the warm-up. Adam and AdamW are the same: weights decay apart from the gradient. Raises
    `ConfigError` for an optimiser of another name, and for `wandb`.
    """
    ensure(not config.wandb, "wandb = True is not covered by interp.compat.transformer_lens; log in a loop of your own")
    check_choice("optimizer_name", config.optimizer_name, ["Adam", "AdamW", "SGD"])
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay or 0.0}
    if config.optimizer_name == "SGD":
        optimizer = torch.optim.SGD(model.parameters(), momentum=config.momentum, **options)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **options)
    torch.manual_seed(config.seed)
    config.device = config.device or get_device()
    model.to(config.device).train()
    warm = config.warmup_steps
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / warm) if warm else 1.0)
    loader = DataLoader(dataset, batch_size=config.batch_size, shuffle=True)
    for epoch in shown(range(1, config.num_epochs + 1), "training", config.num_epochs):
        samples = 0
        for step, batch in enumerate(loader):
            tokens = batch["tokens"].to(config.device)
            loss = model(tokens, return_type="loss")
            loss.backward()
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            samples += len(tokens)
            if config.print_every is not None and step % config.print_every == 0:
                print(f"Epoch {epoch} Samples {samples} Step {step} Loss {loss.item()}")
            if config.save_every is not None and config.save_dir is not None and step % config.save_every == 0:
                torch.save(model.state_dict(), Path(config.save_dir) / f"model_{step}.pt")
            if step == config.max_steps:
                break
    return model
