"""Train with Lightning (pip install lightning): the flow is a module, the objective makes a training step."""

import argparse

import lightning
import torch

from equiflow import EquivariantCNF, Lattice, PathGradient, Phi4, Solver, importance_sample


class Training(lightning.LightningModule):
    """A `LightningModule` that trains a flow by an objective of equiflow."""

    def __init__(self, flow, action, batch_size=128):
        super().__init__()
        self.flow, self.action, self.batch_size = flow, action, batch_size
        self.objective = PathGradient(solver=Solver("rk5", steps=5))

    def training_step(self, batch, index):
        value = self.objective(self.flow, self.action, self.batch_size)
        self.log_dict({"loss": value.loss, "ess": value.ess}, prog_bar=True, batch_size=self.batch_size)
        return value.surrogate

    def configure_optimizers(self):
        return torch.optim.Adam(self.flow.parameters(), lr=1e-2, betas=(0.9, 0.99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="?", type=int, default=200, help="optimiser steps")
    steps = parser.parse_args().steps
    action = Phi4(Lattice((8, 8)), m2=-4.0, lam=6.008)
    flow = EquivariantCNF(action.lattice)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=10.0, **quiet)
    trainer.fit(Training(flow, action), train_dataloaders=[0] * steps)  # no data: the flow draws its samples
    print(f"ESS on fresh samples: {importance_sample(flow, action, 2048).effective_sample_size()}")


if __name__ == "__main__":
    main()
