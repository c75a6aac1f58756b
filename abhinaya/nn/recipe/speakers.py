"""Config of speaker scaling: features seen from the speaker's own mean and spread."""

from __future__ import annotations

from pydantic import Field

from abhinaya.config import Config

__all__ = ["SpeakerScaling"]


class SpeakerScaling(Config):
    """Give the stored features of every speaker mean 0 and deviation 1.

    Speakers are those of the manifest's column `speaker`; clips without one are taken together.
    Nothing is learned, so it is done to validation and to what is predicted as well, each out of
    its own clips: what a clip gets depends on the other clips of its speaker in the selection.
    """

    shrinkage: float = Field(default=5.0, ge=0)
    """Draw the statistics of a speaker towards those of all clips, as if so many clips more of
    theirs looked like these; 0 trusts a speaker of two clips fully."""
