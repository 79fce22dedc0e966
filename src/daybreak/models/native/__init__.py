"""The few loops that PyTorch has none for, in C, and their compiling on first use. All of them have a plain twin.

Stands on core and models.minimal. From outside: `library`.
"""
