"""What analyses run over: pairs of prompts with their answers, and texts."""

__all__: list[str] = []
