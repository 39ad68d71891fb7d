# SPDX-License-Identifier: Apache-2.0
"""The kernels in the layout of Hugging Face's `kernels`: its generator, and the files that it adds to the sources."""
