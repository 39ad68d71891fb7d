# SPDX-License-Identifier: Apache-2.0
"""Everything that exists only to reproduce the paper: ablations, figures, studies, and their commands."""
