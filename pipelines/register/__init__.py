# SPDX-License-Identifier: Apache-2.0
"""Registration of two scans of the same glass. See `sr-keras register --help`."""
