"""What users write, read strictly: experiments' keys, options, and networks of their own."""
