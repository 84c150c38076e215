"""Rate-distortion curves of dense codecs beside conventional ones: measured, kept, compared, drawn.

`project` is the one module that imports from leanvc's own packages.
"""
