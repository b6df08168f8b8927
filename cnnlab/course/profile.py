"""Profiles set how much work a session does. `CNNLAB_PROFILE` is read here and nowhere else.

| profile | meant for | what changes |
|---|---|---|
| `smoke` | quick tests | an eighth of the images, two seeds; claims are computed but not judged |
| `laptop` | everybody | the default; claims are judged |
| `gpu` | a CUDA machine | the sections marked "make it bigger" run on the real data sets |
"""

import os

from cnnlab.errors import CnnlabError
from cnnlab.limits import limits


PROFILES = ("smoke", "laptop", "gpu")


class ProfileError(CnnlabError, ValueError):
    """`CNNLAB_PROFILE` is not the name of a profile."""


def profile() -> str:
    """Return the current profile: `"smoke"`, `"laptop"` (the default) or `"gpu"`.

    Raises:
        ProfileError: `CNNLAB_PROFILE` is set to something else.
    """
    name = os.environ.get("CNNLAB_PROFILE", "laptop")
    if name not in PROFILES:
        raise ProfileError(
            f"CNNLAB_PROFILE is {name!r}, but it must be one of {', '.join(PROFILES)}; "
            "unset it to get laptop"
        )
    return name


def apply_profile() -> str:
    """Set the limits of this session to those of the current profile, and return its name."""
    name = profile()
    limits.reset()
    if name == "smoke":
        limits.data_fraction, limits.max_seeds, limits.judge_claims = 1 / 8, 2, False
    return name
