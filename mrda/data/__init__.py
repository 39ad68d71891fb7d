# SPDX-License-Identifier: Apache-2.0
"""HR training patches, from photos in memory or from caches on disk; and downloads of photo sets."""
