import csv
import io
import zlib

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

DESKS = ["billing", "delivery", "repair", "account"]
WORDS = 4096
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def tokens(text):
    return torch.tensor([1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in text.split()])


class StopInTime(TrainerCallback):
    def __init__(self, context):
        self.context = context

    def on_step_begin(self, *args, **kwargs):
        self.context.before_batch()  # ends the training when the round is over


class Messages:
    def model(self):
        return BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_labels=len(DESKS), **SIZES))

    def data(self, source):
        with io.TextIOWrapper(source.open(), "utf-8") as file:
            rows = list(csv.DictReader(file))
        return [(tokens(row["text"]), DESKS.index(row["desk"])) for row in rows]

    def collate(self, samples):
        texts, desks = zip(*samples)
        ids = pad_sequence(texts, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor(desks)}

    def predict(self, model, batch):
        return model(**batch).logits, batch["labels"]

    def fit(self, model, data, context):
        arguments = TrainingArguments(
            output_dir=context.path,
            num_train_epochs=context.epochs,
            per_device_train_batch_size=context.batch_size,
            lr_scheduler_type="constant",
            seed=context.seed,
            use_cpu=context.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            data_collator=self.collate,
            train_dataset=data,
            callbacks=[StopInTime(context)],
            optimizers=(context.optimizer(model), None),
        )
        return {"loss": trainer.train().training_loss}
