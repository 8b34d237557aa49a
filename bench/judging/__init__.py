"""How a claim is judged: kinds of evidence to a verdict."""
