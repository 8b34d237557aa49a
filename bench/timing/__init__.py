"""What the timed commands share: loops over a cell, turns, processes, and what else ran meanwhile."""
