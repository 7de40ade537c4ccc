# SPDX-License-Identifier: Apache-2.0
"""Synthetic pairs: a draft and a target in Hugging Face format whose acceptance is known exactly.

Both models are bigram language models of a text. Their embedding and output layer are the factors of a
low-rank factorisation of the bigram table's log-probabilities; every layer in between computes in full
and adds exactly zero to the residual stream. So the cost of a step is that of a real model of the same
shape, while the next-token distribution depends on the last token alone and can be written down. Draft
and target differ in rank, which is what makes the draft err. Where a vocabulary is too large for a table,
a *planted* pair follows a permutation of its tokens instead, and the draft errs at planted places.

Numbers measured with such pairs say nothing about the acceptance of a real pair: call them synthetic
wherever they appear.
"""

from specbuild.synthetic.pair import Recipe, Synthesized, synthesize
from specbuild.synthetic.planted_pair import PLANTED_SHAPES, PlantedRecipe, plant
from specbuild.synthetic.prediction import GreedyRun, predict_greedy
from specbuild.synthetic.shapes import SHAPES

__all__ = [
    "PLANTED_SHAPES",
    "SHAPES",
    "GreedyRun",
    "PlantedRecipe",
    "Recipe",
    "Synthesized",
    "plant",
    "predict_greedy",
    "synthesize",
]
