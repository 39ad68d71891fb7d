# SPDX-License-Identifier: Apache-2.0
"""Metrics, protocols and tables of the paper's evaluation."""
