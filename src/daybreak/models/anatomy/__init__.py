"""A net taken apart: layer tables, receptive fields, batch norms folded away.

Works on any `nn.Module` that torch.fx can trace. From outside: `trace`, `effective`, `folding`.
"""
