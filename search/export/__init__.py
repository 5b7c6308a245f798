"""The folder `best/`: writing it, loading it, and what stands in it beside the weights."""
