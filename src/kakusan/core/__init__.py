"""The algebra of diffusion models on torch tensors: no modality, no files.

Process x parametrisation x noise-level density x grid x solver x guidance are orthogonal; each is one file here.
"""
