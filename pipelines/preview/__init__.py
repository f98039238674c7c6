# SPDX-License-Identifier: Apache-2.0
"""Preview of what training sees: degradations and corruptions. See `sr-keras preview --help`."""
