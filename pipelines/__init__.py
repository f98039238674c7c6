# SPDX-License-Identifier: Apache-2.0
"""From whole-slide images to (lr, hr) training pairs. Knows nothing of `sr_keras`.

Data moves one way: slide -> tissue -> patches -> shards -> dataset. Each step is a module of that name.
"""
