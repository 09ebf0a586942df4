"""Quantized weights: the plan, the layouts in files, and the leaves that compute with them.

Imports nothing, so that `quant.plan` is free of torch. `codec` turns matrices into the tensors of a
file and back, `swap` puts quantized leaves into a model, `plan` says which tensor gets what.
"""
