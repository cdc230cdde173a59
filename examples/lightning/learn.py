import logging

import lightning
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.layers(x)

    def training_step(self, batch, _):
        x, y = batch
        loss = cross_entropy(self(x), y)
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self):
        return self.make_optimizer(self)


class StopInTime(lightning.Callback):
    def __init__(self, context):
        self.context = context

    def on_train_batch_start(self, *args):
        self.context.before_batch()  # ends the training when the round is over


class Site:
    def model(self):
        return Digits()

    def fit(self, model, data, context):
        model.make_optimizer = context.optimizer  # its state is carried from round to round
        trainer = lightning.Trainer(
            max_epochs=context.epochs,
            accelerator=context.device.type,
            callbacks=[StopInTime(context)],
            default_root_dir=context.path,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
        )
        trainer.fit(model, DataLoader(TensorDataset(*data), context.batch_size, shuffle=True))
        return {"loss": float(trainer.callback_metrics["loss"])}
