# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model beside bicubic, on patches that it was not trained on.

    conditions  the kinds of LR, by name
    patches     the patches that are scored, and the scores of each
    tables      means, intervals and gains over bicubic: tables and files
    nuclei      nuclei of a picture by one fixed detector, and how those of two pictures agree
    detail      both by slide, what is invented and lost, and whether the trust map tells where
    pictures    LR, bicubic, SR and HR side by side; curves of gains; maps of nuclei
"""
