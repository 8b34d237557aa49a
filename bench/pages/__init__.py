"""What RESULTS.md and the explorer show: `report` and `explorer` put it together from records."""
