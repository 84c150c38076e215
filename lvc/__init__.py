"""Coded video without torch: the .lvc format, its entropy coding, and its player.

What a device needs that only decodes: numpy, onnxruntime, constriction, google-crc32c, PyAV.
Nothing here may import torch, compressai, vcodecs, prune or distill.
"""
