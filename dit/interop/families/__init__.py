"""The classes of diffusers that this project can read and write, one module each."""

from dit.interop.families.allegro import Allegro
from dit.interop.families.cogvideox import CogVideoX
from dit.interop.families.cosmos import Cosmos
from dit.interop.families.dit import DiT
from dit.interop.families.hunyuan_video import HunyuanVideo
from dit.interop.families.hunyuan_video15 import HunyuanVideo15
from dit.interop.families.kandinsky5 import Kandinsky5
from dit.interop.families.latte import Latte
from dit.interop.families.ltx import LTXVideo
from dit.interop.families.mochi import Mochi
from dit.interop.families.skyreels_v2 import SkyReelsV2
from dit.interop.families.wan import Wan
from dit.interop.family import Family

FAMILIES: tuple[Family, ...] = (
    Wan(),
    SkyReelsV2(),
    LTXVideo(),
    DiT(),
    Latte(),
    Cosmos(),
    CogVideoX(),
    Allegro(),
    HunyuanVideo(),
    HunyuanVideo15(),
    Kandinsky5(),
    Mochi(),
)
