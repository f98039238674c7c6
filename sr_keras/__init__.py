# SPDX-License-Identifier: Apache-2.0
"""SRGAN_SQE: super-resolution for digital pathology that survives uncurated slides.

Source: Upadhyay and Awate, "Robust super-resolution GAN, with manifold-based and perception loss", ISBI 2019.
"""
__version__ = "0.1.0"
