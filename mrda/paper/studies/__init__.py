# SPDX-License-Identifier: Apache-2.0
"""Studies of the paper, each run as `python -m mrda.paper.studies.NAME`: bicubic_rows, jpeg, precision, release."""
