# SPDX-License-Identifier: Apache-2.0
"""General tools for all other packages; nothing in here is about super-resolution."""
