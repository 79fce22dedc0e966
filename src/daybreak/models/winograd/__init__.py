"""3×3 convolutions with fewer multiplications than pixels times filters, for training and inference on CPUs.

Stands on core and models.native. From outside: `choice.Convolutions`, `convolve.winograd`.
"""
