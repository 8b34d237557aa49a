"""Networks: `layers` and `networks` describe them without torch, `build` makes modules of them."""
