"""A net taken apart: stages, layer tables, receptive fields, batch norms folded away.

Stages are found in any `nn.Module`; the rest works on those that torch.fx can trace. From outside: `stages`, `trace`,
`effective`, `folding`.
"""
