# SPDX-License-Identifier: Apache-2.0
"""The web page of `mrda app`: a photo is dropped, and comes back larger."""
