"""How a client trains: models, the loop over batches, optimizers, evaluation."""
