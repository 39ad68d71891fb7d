# SPDX-License-Identifier: Apache-2.0
"""The commands `mrda ablate` and `mrda figures`, which register with the command line through entry points."""
