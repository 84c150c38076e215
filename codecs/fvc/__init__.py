"""FVC: video coding in feature space (Hu, Lu, Xu, CVPR 2021).

Motion is a field of offsets by which a deformable convolution fetches the reference's features
(`deform`), and the residual is one of features. `video` is the codec as it was released, `fusion`
what the paper adds to it: a second look at up to three decoded pictures.
"""

from vcodecs.fvc.video import FVC

__all__ = ["FVC"]
