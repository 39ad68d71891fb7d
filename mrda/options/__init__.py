# SPDX-License-Identifier: Apache-2.0
"""The options of networks and degradations, as frozen dataclasses that check their values; none imports torch."""
