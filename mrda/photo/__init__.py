# SPDX-License-Identifier: Apache-2.0
"""Image files: reading and writing photographs with their bit depth, transparency and metadata."""
