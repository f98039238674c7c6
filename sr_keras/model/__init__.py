# SPDX-License-Identifier: Apache-2.0
"""A trained generator: load it, call it, know what it was made for."""
