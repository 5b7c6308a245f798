"""From archives of strong-motion records to a dataset of windows."""
