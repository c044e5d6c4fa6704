"""The classes of diffusers that this project can read and write, one module each."""

from dit.interop.families.wan import Wan
from dit.interop.family import Family

FAMILIES: tuple[Family, ...] = (Wan(),)
