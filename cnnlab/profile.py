"""How much a run may cost: `CNNLAB_PROFILE` is read here and nowhere else.

| profile | meant for | what changes |
|---|---|---|
| `smoke` | quick tests | an eighth of the images, two seeds; claims are computed, not judged |
| `laptop` | everybody | the default; claims are judged |
| `gpu` | a CUDA machine | the sections marked "make it bigger" run on the real data sets |
"""

import os

from cnnlab.errors import CnnlabError


PROFILES = ("smoke", "laptop", "gpu")


class ProfileError(CnnlabError, ValueError):
    """`CNNLAB_PROFILE` names no profile."""


def profile() -> str:
    """Return the profile in force: `"smoke"`, `"laptop"` (the default) or `"gpu"`.

    Raises:
        ProfileError: `CNNLAB_PROFILE` is set to something else.
    """
    name = os.environ.get("CNNLAB_PROFILE", "laptop")
    if name not in PROFILES:
        raise ProfileError(
            f"CNNLAB_PROFILE is {name!r}; it may be one of {', '.join(PROFILES)}, or unset for laptop"
        )
    return name
