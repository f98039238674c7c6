"""Pictures of what training sees, and how near synthetic LR comes to real LR: `python -m pipelines.preview`.

    __main__        the command
    degradations    LR images of the same HR: real, textbook, pyramid, scanner
    corruptions     what an uncurated training set holds
    likeness        power spectra and residuals of synthetic against real LR
"""
