"""Which of a codec's training stages a compressed decoder goes through."""

from vcodecs import Stage, VideoCodec


def decoder_stages(codec: VideoCodec) -> tuple[Stage, ...]:
    """The stages that train a decoder module: motion, then context, then everything.

    Stages of the encoder alone (an optical flow, say) have nothing to sparsify.
    """
    inside = set(codec.decoder_modules())
    return tuple(stage for stage in codec.stages() if inside.intersection(stage.modules))
