"""One module per backend, loaded on first use by :mod:`mrda_kernels.dispatch`.

A backend offers four functions. ``why_not(device_type)`` answers None where it can serve tensors of that device, else
a sentence that says why it can't and how to get it; ``details()`` describes one that can. ``forward`` and
``backward`` do the work, on checked arguments with at least one element; ``mask_weight=None`` stands for the bare
dynamic convolution.
"""
