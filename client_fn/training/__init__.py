"""Models, optimizers, training and evaluation, all on torch: what runs in the trainer process.

The Python that trains may be another one than the worker's (FEDKEEPER_TRAINER_PYTHON). So these modules are written for
Python 3.10 and import nothing but the standard library, torch, numpy, safetensors and `client_fn.errors`; what only
some jobs need (pyarrow, pillow) is imported where it is used.
"""
