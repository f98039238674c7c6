"""Two scans of the same glass, laid over each other: pairs as two real scanners give them.

`planes` brings windows of both onto one grid; `coarse` matches thumbnails and `fine` compares a patch; `locate` goes
from one to the other; `examine` judges every patch; `colours` and `overlay` say what the scanners make of one stain and
show the result; `registration` is what is kept, as JSON; `scans` is all of it in order.
"""
