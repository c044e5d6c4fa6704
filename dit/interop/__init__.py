"""Weights in and out: diffusers' layouts, safetensors, adapters."""

from dit.interop.diffusers import call_like_diffusers, from_diffusers, to_diffusers

__all__ = ["call_like_diffusers", "from_diffusers", "to_diffusers"]
