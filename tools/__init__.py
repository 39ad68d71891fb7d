# SPDX-License-Identifier: Apache-2.0
"""Commands that make what is released: wheels, and the kernels for other loaders."""
