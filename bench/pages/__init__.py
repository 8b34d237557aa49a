"""What RESULTS.md and the explorer show: `report` puts it together from records."""
