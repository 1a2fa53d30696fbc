"""Pictures: single-panel figures (`figures`, plotly) and pages to keep them in (`report`)."""
