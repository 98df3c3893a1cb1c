"""vLLM: an engine of ours, and the plug-in that puts our samplers and each token's entropy into anybody's vLLM."""

from hartley.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
