"""Checks of notebook 02, sparse autoencoders.

===================  ============  ======================================
02.sae_forward       forward.py    An autoencoder, forward
02.sae_loss          training.py   What the autoencoder minimises
02.project_gradient  training.py   A gradient that keeps rows at length 1
02.mmcs              measures.py   Were the features found?
02.fvu               measures.py   Fraction of variance unexplained
02.topk              forward.py    Keep the k largest
02.loss_recovered    measures.py   How much of the loss is recovered?
02.promoted          edits.py      What does a direction promote?
02.detection         detection.py  Score an explanation
02.keep_the_error    edits.py      Ablate a latent and nothing else
===================  ============  ======================================
"""

from mi_utils.grading.nb02.detection import DETECTION
from mi_utils.grading.nb02.edits import KEEP_THE_ERROR, PROMOTED
from mi_utils.grading.nb02.forward import SAE_FORWARD, TOPK
from mi_utils.grading.nb02.measures import FVU, LOSS_RECOVERED, MMCS
from mi_utils.grading.nb02.training import PROJECT_GRADIENT, SAE_LOSS

EXERCISES = (
    SAE_FORWARD,
    SAE_LOSS,
    PROJECT_GRADIENT,
    MMCS,
    FVU,
    TOPK,
    LOSS_RECOVERED,
    PROMOTED,
    DETECTION,
    KEEP_THE_ERROR,
)
