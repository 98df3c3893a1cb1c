"""Did this model write this text, and which of several did? Tests whose error rate is stated, and exact."""

from hartley.detection.attribution import Attribution, Reading, attribute
from hartley.detection.calibration import Calibration, calibrate
from hartley.detection.detect import detect
from hartley.detection.protocol import Encoder, Reader, Transformation
from hartley.detection.reading import read
from hartley.detection.scores import LAMBDAS, Scores, score_from_logits
from hartley.detection.stream import Detector
from hartley.detection.verdict import Detection, decide, needed_variance
from hartley.detection.wealth import log_wealth
from hartley.detection.words import explain, explain_attribution

__all__ = [
    "LAMBDAS",
    "Attribution",
    "Calibration",
    "Detection",
    "Detector",
    "Encoder",
    "Reader",
    "Reading",
    "Scores",
    "Transformation",
    "attribute",
    "calibrate",
    "decide",
    "detect",
    "explain",
    "explain_attribution",
    "log_wealth",
    "needed_variance",
    "read",
    "score_from_logits",
]
