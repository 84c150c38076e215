"""The worth of a codec: rate and distortion of real clips, coded in the loop of a receiver.

`coding_loop` codes a clip frame after frame, each from what the receiver has; `rate_distortion`
does that for dense and sparse codecs side by side; `metrics` turns points into BD-rate and BD-PSNR.
"""
