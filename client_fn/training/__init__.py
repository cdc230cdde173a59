"""Models, optimizers, the training loop and the evaluation, all on torch."""
