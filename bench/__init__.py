"""The harness: experiments in, records and tables out."""
