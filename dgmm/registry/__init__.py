"""A registry of models in a folder: versions of a model that never change, their cards, and which of them is in use.

``models/NAME/<date>-<digest>/`` holds a version, and beside these lie files for aliases: ``champion``, which is in use,
``candidate`` and ``previous``. A model is named by them wherever one is read: ``models/NAME@champion``.
"""

from dgmm.registry.card import Card, Class, Judgement, Made, card_of
from dgmm.registry.versions import CANDIDATE, Registry

__all__ = ["CANDIDATE", "Card", "Class", "Judgement", "Made", "Registry", "card_of"]
