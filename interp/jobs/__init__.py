"""Long work in units: a folder that holds what is done, and engines that decide who computes which unit."""

__all__: list[str] = []
