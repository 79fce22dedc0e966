"""The nets, one file each, and their registry; what happens inside a net is in `anatomy`.

Stands on core. From outside: `registry.build_net`, `registry.NETS`, `anatomy`.
"""
