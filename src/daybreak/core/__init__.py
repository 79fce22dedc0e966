"""What everything else stands on: errors, configuration, clocks, devices, signals, files that are whole or not there.

Imports no other room. All modules may be used from outside; `config`, `errors`, `clock` and `files` need no torch.
"""
