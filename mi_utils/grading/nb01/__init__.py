"""Checks of notebook 01, toy models of superposition.

==================  ===========  ===========================================
01.sparse_batch     features.py  Draw sparse features
01.reconstruct      model.py     Write the model
01.loss             model.py     A loss that knows what matters
01.pca              losses.py    The best that a linear model can do
01.find_the_bug     geometry.py  Find the bug: interference that isn't there
01.candidates       losses.py    Three candidates for two features
01.dimensionality   geometry.py  How much of a dimension does a feature get?
01.matched_control  control.py   A control with matched lengths
01.welch            welch.py     The Welch bound
==================  ===========  ===========================================
"""

from mi_utils.grading.nb01.control import MATCHED_CONTROL
from mi_utils.grading.nb01.features import SPARSE_BATCH
from mi_utils.grading.nb01.geometry import DIMENSIONALITY, FIND_THE_BUG
from mi_utils.grading.nb01.losses import BEST_LINEAR, CANDIDATES
from mi_utils.grading.nb01.model import LOSS, RECONSTRUCT
from mi_utils.grading.nb01.welch import WELCH

EXERCISES = (
    SPARSE_BATCH,
    RECONSTRUCT,
    LOSS,
    BEST_LINEAR,
    FIND_THE_BUG,
    CANDIDATES,
    DIMENSIONALITY,
    MATCHED_CONTROL,
    WELCH,
)
